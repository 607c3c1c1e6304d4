"""A row of data that could not be used, and why; never its text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FailedRow:
    """A row that was set aside, so that the others could go on.

    Attributes:
        row: its number, from 1, among all rows of the data.
        reason: what is wrong with it and what to do, without a word of its text.
    """

    row: int
    reason: str
