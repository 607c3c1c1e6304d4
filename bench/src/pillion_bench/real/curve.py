"""Learning curves: closed-form heads on pooled states from a few rows to all of them.

Layers are chosen once, on validation, with all training rows. Trains no probe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pillion.metrics import evaluate
from pillion.probe.task import Task
from pillion_bench.real.closed_forms import (
    ClosedForm,
    DifferenceOfMeans,
    Lda,
    Ridge,
    columns,
)

RIDGE_LAYERS = 11
"""Layers side by side that a ridge reads, evenly spaced: a third of a small model's."""

Means = Float[np.ndarray, "row layer dim"]


@dataclass(frozen=True, eq=False)
class Pooled:
    """Pooled states of rows, with their label ids."""

    states: Means
    targets: Int[np.ndarray, " row"]

    def rows(self, ids: Int[np.ndarray, " some"]) -> Pooled:
        """Some of the rows."""
        return Pooled(self.states[ids], self.targets[ids])


def choose_heads(
    train: Pooled, validation: Pooled, task: Task, outputs: int
) -> dict[str, Callable[[], ClosedForm]]:
    """The heads by name, each on the layer that is best on validation.

    Args:
        train: all training rows.
        validation: rows that choose.
        task: what targets mean.
        outputs: columns of scores.
    """
    layers = range(train.states.shape[1])

    def best(head: type[DifferenceOfMeans] | type[Lda]) -> int:
        found = [
            _quality(fit_scores(head(i), train, validation, outputs), validation.targets, task)
            for i in layers
        ]
        return int(np.argmax(found))

    means, lda = best(DifferenceOfMeans), best(Lda)
    spaced = np.unique(np.linspace(0, len(layers) - 1, RIDGE_LAYERS).round().astype(int))
    return {
        f"difference of means, layer {means}": lambda: DifferenceOfMeans(means),
        f"LDA, layer {lda}": lambda: Lda(lda),
        f"ridge, {len(spaced)} layers": lambda: Ridge(spaced),
    }


def fit_scores(head: ClosedForm, train: Pooled, asked: Pooled, outputs: int) -> np.ndarray:
    """What a head says of rows after it was fitted on others; zeros for rows of one label."""
    if len(np.unique(train.targets)) < 2:
        return np.zeros((len(asked.targets), outputs))
    wanted = columns(train.targets, outputs)
    return head.fit(train.states, wanted).scores(asked.states)


def _quality(scores: np.ndarray, targets: np.ndarray, task: Task) -> float:
    """AUPRC for binary, else accuracy; of scores that only rank."""
    if task == "multiclass":
        return float((scores.argmax(1) == targets).mean())
    ranks = scores.argsort(axis=0).argsort(axis=0) / max(len(scores) - 1, 1)
    return evaluate(ranks, targets, "binary")["auprc"] or 0.0
