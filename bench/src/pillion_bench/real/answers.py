"""What methods said of all texts, and where each decides.

Knows no metric and no method's insides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pillion.metrics.calibration import fit_platt, fit_temperature
from pillion.metrics.thresholds import f1_threshold
from pillion.probe.task import Task
from pillion_bench.real.sets import TextSet

Probs = Float[np.ndarray, "_row output"]


@dataclass(frozen=True, eq=False)
class Answer:
    """One method's probabilities.

    Attributes:
        method: its name.
        validation: of the validation rows.
        by_set: name of a set -> of its rows.
        thresholds: chosen on validation; None for multi-class.
        parameters: numbers that were learnt.
    """

    method: str
    validation: Probs
    by_set: dict[str, Probs]
    thresholds: tuple[float, ...] | None
    parameters: int

    @classmethod
    def of(
        cls,
        method: str,
        task: Task,
        validation: Probs,
        truth: Int[np.ndarray, " row"],
        tested: Probs,
        sets: list[TextSet],
        parameters: int,
    ) -> Answer:
        """Cuts what was said of all sets' rows into sets, and chooses thresholds on validation."""
        ends = np.cumsum([len(one) for one in sets])[:-1]
        parts = np.split(tested, ends)
        by_set = {one.name: part for one, part in zip(sets, parts, strict=True)}
        thresholds = None
        if task != "multiclass":
            line = f1_threshold(validation[:, 0], truth)
            thresholds = (0.5 if line is None else line,)
        return cls(method, validation, by_set, thresholds, parameters)


def scores_to_probs(
    task: Task, validation: np.ndarray, truth: np.ndarray, tested: np.ndarray
) -> tuple[Probs, Probs]:
    """Scores that only rank, as probabilities by a curve through the validation rows.

    Where validation cannot carry a curve (one side only, or the wrong way round), the plain sigmoid
    or softmax is taken: ranks stay as they are.
    """
    if task == "multiclass":
        scale = fit_temperature(validation, truth) if len(np.unique(truth)) > 1 else 1.0
        return _softmax(scale * validation), _softmax(scale * tested)
    scale, offset = 1.0, 0.0
    if 0 < truth.sum() < len(truth):
        fitted = fit_platt(validation[:, 0], truth)
        scale, offset = fitted if fitted[0] > 0 else (scale, offset)
    return _sigmoid(scale * validation + offset), _sigmoid(scale * tested + offset)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
