"""Rows with what they are to teach: hidden states, targets, weights.

Does not know probes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from pillion.errors import DataError
from pillion.extract import JoinedRows, StateSource


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to validate on.

    Attributes:
        source: their hidden states.
        targets: as `LabelSpace.encode` gives them.
        weights: what each row counts in the loss, 1 on average; None where all count the same.
        goals: probabilities that the loss compares with, of the shape of binary or multi-label
            targets; None: the targets themselves. Thresholds and metrics are of targets alone.
        groups: a number a row, the same for rows that must not be parted where rows are left out in
            turns, such as one alone and in a context; None where each is by itself.
        weights_together: what each row counts where the other side's rows are learnt from, too, 1
            on average over both; None: `weights`.
    """

    source: StateSource
    targets: Shaped[np.ndarray, "row ..."]
    weights: Float[np.ndarray, " row"] | None = None
    goals: Float[np.ndarray, "row ..."] | None = None
    groups: Int[np.ndarray, " row"] | None = None
    weights_together: Float[np.ndarray, " row"] | None = None

    @property
    def wanted(self) -> Shaped[np.ndarray, "row ..."]:
        """What the loss compares with."""
        return self.targets if self.goals is None else self.goals

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.source.lengths) or not len(self.targets):
            raise DataError(
                f"Got {len(self.targets)} labels for {len(self.source.lengths)} rows; give one a "
                "row, and at least one row."
            )


def together(training: Examples, validation: Examples) -> Examples:
    """The rows of both, one after the other."""
    has_goals = training.goals is not None or validation.goals is not None
    return Examples(
        JoinedRows(training.source, validation.source),
        np.concatenate([training.targets, validation.targets]),
        _joined_weights(training, validation),
        np.concatenate([training.wanted, validation.wanted]) if has_goals else None,
        _joined_groups(training, validation),
    )


def _joined_weights(*sides: Examples) -> Float[np.ndarray, " row"] | None:
    both = [one.weights_together for one in sides if one.weights_together is not None]
    if len(both) == len(sides):
        return np.concatenate(both)
    if all(one.weights is None for one in sides):
        return None
    each = [np.ones(len(one.targets)) if one.weights is None else one.weights for one in sides]
    return np.concatenate(each)


def _joined_groups(*sides: Examples) -> Int[np.ndarray, " row"] | None:
    """Groups of all rows; those of one side are none of the other's, whatever their numbers."""
    if all(one.groups is None for one in sides):
        return None
    found: list[Int[np.ndarray, " _row"]] = []
    for one in sides:
        groups = np.arange(len(one.targets)) if one.groups is None else one.groups
        own = np.unique(groups, return_inverse=True)[1]
        found.append(own + (int(found[-1].max()) + 1 if found else 0))
    return np.concatenate(found)
