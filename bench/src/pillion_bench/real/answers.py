"""What methods said of all texts, and where each decides.

Knows no metric and no method's insides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pillion.metrics.thresholds import f1_threshold
from pillion_bench.baselines import Outcome
from pillion_bench.problem import Problem

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
        cls, method: str, problem: Problem, outcome: Outcome, by_set: dict[str, Probs]
    ) -> Answer:
        """What an outcome said, with thresholds chosen on validation."""
        thresholds = None
        if problem.task != "multiclass":
            line = f1_threshold(outcome.validation[:, 0], problem.validation.targets)
            thresholds = (0.5 if line is None else line,)
        return cls(method, outcome.validation, by_set, thresholds, outcome.parameters)
