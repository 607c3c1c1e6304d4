"""What a row's labels are: a name, several, or some that were judged and some that were not.

Knows no files and no order of labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pillion.errors import DataError


class JudgedLabels(tuple[str, ...]):
    """Names of the labels that a row has, beside those that it was judged not to have.

    Any other label was not judged for the row: it counts in no loss and no metric. To other code it
    is a tuple of the names that the row has.

    Attributes:
        lacks: names of the labels that it was judged not to have.
    """

    lacks: tuple[str, ...]

    def __new__(cls, has: Sequence[str] = (), lacks: Sequence[str] = ()) -> JudgedLabels:
        """Of the labels that a row has, and of those that it lacks."""
        own = super().__new__(cls, has)
        own.lacks = tuple(lacks)
        return own

    def __getnewargs__(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a copy is made of."""
        return tuple(self), self.lacks

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, JudgedLabels)
            and tuple(self) == tuple(other)
            and set(self.lacks) == set(other.lacks)
        )

    def __ne__(self, other: object) -> bool:
        return not self == other  # not as a tuple has it

    def __hash__(self) -> int:
        return hash((tuple(self), frozenset(self.lacks)))

    def __repr__(self) -> str:
        return f"JudgedLabels({list(self)}, lacks={list(self.lacks)})"


class SoftLabels(JudgedLabels):
    """Probabilities of labels; to other code, labels cut at one half.

    Attributes:
        probs: label -> probability that the row has it; others were not judged.
    """

    probs: Mapping[str, float]

    def __new__(cls, probs: Mapping[str, float]) -> SoftLabels:
        """Of label -> probability, 0 to 1."""
        has = [name for name, value in probs.items() if value >= 0.5]
        own = tuple.__new__(cls, has)
        own.lacks, own.probs = tuple(name for name in probs if name not in has), dict(probs)
        return own

    def __getnewargs__(self) -> tuple[Mapping[str, float]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What a copy is made of."""
        return (self.probs,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SoftLabels) and self.probs == other.probs

    def __hash__(self) -> int:
        return hash(frozenset(self.probs.items()))

    def __repr__(self) -> str:
        return f"SoftLabels({dict(self.probs)})"

    @property
    def is_pair(self) -> bool:
        """Whether it says which of two labels a row has: their probabilities add to one."""
        return len(self.probs) == 2 and abs(sum(self.probs.values()) - 1) < 1e-6

    def renamed(self, common: Callable[[str], str]) -> SoftLabels:
        """The same under other names.

        Raises:
            DataError: two labels would be one, whose probability is unknown.
        """
        found = {common(name): value for name, value in self.probs.items()}
        if len(found) < len(self.probs):
            raise DataError(
                f"Labels {', '.join(map(repr, self.probs))} have probabilities of their own and "
                "would get one name; leave one of them out."
            )
        return SoftLabels(found)


Label = str | tuple[str, ...]
"""Of a row: its one name, or several (`JudgedLabels` where some may not have been judged)."""


def names_of(label: Label) -> tuple[str, ...]:
    """The names that a row has."""
    return (label,) if isinstance(label, str) else label


def judged(label: Label) -> tuple[str, ...]:
    """The names that were asked about, whether or not the row has them."""
    return (*label, *label.lacks) if isinstance(label, JudgedLabels) else names_of(label)
