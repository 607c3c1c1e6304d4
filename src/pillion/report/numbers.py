"""How numbers are written on a page. What is undefined is said to be so, and is never 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNDEFINED = "undefined"


def number(value: Any, digits: int = 3) -> str:
    """A number with so many decimals; whole numbers in groups of three digits."""
    if value is None:
        return UNDEFINED
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return UNDEFINED if value is None else f"{value:.{digits}%}"


def spread(interval: Sequence[float] | None, digits: int = 3) -> str:
    """An interval; empty if there is none."""
    # Zero is added after rounding: nothing is written as -0.000.
    return " to ".join(f"{round(end, digits) + 0.0:.{digits}f}" for end in interval or ())


def compact(value: float | int | None, unit: str = "") -> str:
    """A size or count in thousands, millions, ..."""
    if value is None:
        return UNDEFINED
    size, step = float(value), ""
    for step in ("", "k", "M", "G", "T"):
        if abs(size) < 1000 or step == "T":
            break
        size /= 1000
    shown = f"{size:.0f}" if not step and size == int(size) else f"{size:.3g}"
    return f"{shown} {step}{unit}".rstrip()
