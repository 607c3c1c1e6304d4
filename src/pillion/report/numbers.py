"""How numbers are written on a page. What is undefined is said to be so, and is never 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNDEFINED = "undefined"
MOST_DIGITS = 6
"""That a result file keeps of a probability."""


def number(value: Any, digits: int = 3) -> str:
    """A number with so many decimals; whole numbers in groups of three digits.

    One between 0 and 1 has as many more as it takes to be neither: a threshold of 0.9997 is not 1.
    """
    if value is None:
        return UNDEFINED
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    digits = _enough(value, digits) if digits else 0
    return f"{_rounded(value, digits):.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; one of some rows is not written as that of none or of all."""
    if value is None:
        return UNDEFINED
    digits = _enough(value, digits + 2) - 2 if digits else 0
    return f"{_rounded(value, digits + 2):.{digits}%}"


def spread(interval: Sequence[float] | None, digits: int = 3) -> str:
    """An interval; empty if there is none."""
    return " to ".join(f"{_rounded(end, digits):.{digits}f}" for end in interval or ())


def compact(value: float | int | None, unit: str = "") -> str:
    """A size or count in thousands, millions, ..."""
    if value is None:
        return UNDEFINED
    size, step = float(value), ""
    for step in ("", "k", "M", "G", "T"):
        # What three digits would write as a thousand is one of the next step.
        if abs(size) < 999.5 or step == "T":
            break
        size /= 1000
    shown = f"{size:.0f}" if abs(size) >= 100 or size == int(size) else f"{size:.3g}"
    return f"{shown} {step}{unit}".rstrip()


def _enough(value: float, digits: int) -> int:
    """Digits by which a number between 0 and 1 is neither."""
    while digits < MOST_DIGITS and 0 < value < 1 and round(value, digits) in (0, 1):
        digits += 1
    return digits


def _rounded(value: float, digits: int) -> float:
    """Zero is added after rounding: nothing is written as -0.000."""
    return round(value, digits) + 0.0
