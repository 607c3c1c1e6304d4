"""Which single layer a rule picks from the numbers of a study.

Each rule is a sentence. Knows neither states nor models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pillion.select.study import LayerRow

Rule = Callable[[Sequence[LayerRow]], int | None]


def by_silhouette(rows: Sequence[LayerRow]) -> int | None:
    """The inflection point with the highest silhouette; where nothing bends, the highest layer."""
    bends = [row for row in rows if row.inflection]
    return _highest(bends or rows, lambda row: row.silhouette)


def by_weight(rows: Sequence[LayerRow]) -> int | None:
    """The layer that a trained gate counts most."""
    return _highest(rows, lambda row: row.weight)


def by_entropy(rows: Sequence[LayerRow]) -> int | None:
    """The layer in which a trained gate reads the fewest tokens: of the lowest entropy."""
    return _highest(rows, lambda row: None if row.entropy is None else -row.entropy)


def by_sweep(rows: Sequence[LayerRow]) -> int | None:
    """The layer of the highest score; of equals the lowest."""
    return _highest(rows, lambda row: row.score)


RULES: dict[str, Rule] = {
    "silhouette": by_silhouette,
    "weight": by_weight,
    "entropy": by_entropy,
    "sweep": by_sweep,
}
"""By what they go; None is picked where that is undefined."""


def _highest(rows: Sequence[LayerRow], of: Callable[[LayerRow], float | None]) -> int | None:
    """The layer whose number is highest, of equals the lowest; None where no layer has one."""
    known = [(value, -row.layer) for row in rows if (value := of(row)) is not None]
    return -max(known)[1] if known else None
