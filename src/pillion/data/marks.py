"""What a row's labels are: a name, several, or some that were judged and some that nobody did.

Knows no files and no order of labels.
"""

from __future__ import annotations

from collections.abc import Sequence


class Marks(tuple[str, ...]):
    """Names of the labels that a row has, beside those that it was judged not to have.

    Of any other label nobody judged whether the row has it: it counts in no loss and no metric. To
    everyone who does not ask, a tuple of the names that the row has.

    Attributes:
        lacks: names of the labels that it was judged not to have.
    """

    lacks: tuple[str, ...]

    def __new__(cls, has: Sequence[str] = (), lacks: Sequence[str] = ()) -> Marks:
        """Of the labels that a row has, and of those that it lacks."""
        own = super().__new__(cls, has)
        own.lacks = tuple(lacks)
        return own

    def __getnewargs__(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a copy is made of."""
        return tuple(self), self.lacks

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Marks)
            and tuple(self) == tuple(other)
            and set(self.lacks) == set(other.lacks)
        )

    def __hash__(self) -> int:
        return hash((tuple(self), frozenset(self.lacks)))

    def __repr__(self) -> str:
        return f"Marks({list(self)}, lacks={list(self.lacks)})"


Label = str | tuple[str, ...]
"""Of a row: its one name, or any number of them (`Marks` where some may not have been judged)."""


def names_of(label: Label) -> tuple[str, ...]:
    """The names that a row has."""
    return (label,) if isinstance(label, str) else label


def judged(label: Label) -> tuple[str, ...]:
    """The names that were asked about, whether or not the row has them."""
    return (*label, *label.lacks) if isinstance(label, Marks) else names_of(label)
