"""How every picture is made and written: no window, whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pillion.core.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET = "#1a1a1a", "#8a8a8a"
FIRST, SECOND, THIRD = "#1f5fa8", "#c4541c", "#2f7d4f"
"""Colours that differ in lightness too, for readers who cannot tell hues apart."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG file, whole or not at all.

    Raises:
        StorageError: it cannot be written; what was there before stays.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
