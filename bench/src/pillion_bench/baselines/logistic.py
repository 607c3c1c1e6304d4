"""Logistic regression on given features: the strength of its penalty is chosen on validation.

Promises columns of probabilities as pillion's metrics want them for each task, also for labels that
no training row has, of models that are at their optimum. Does not know where features come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import sparse
from scipy.special import expit, softmax

from pillion.data.labels import Task
from pillion_bench.baselines.newton import Features, Rows, Solution, principal_axes, solve
from pillion_bench.choice import Quality, best_of, is_at_edge, judges, quality, together, widened
from pillion_bench.problem import columns

STRENGTHS = (1.0, 10.0, 100.0)
"""Values of C to begin with: the larger, the weaker the penalty. Chosen edges are gone beyond."""

Sample = tuple[Features, Shaped[np.ndarray, "..."]]
"""Features and targets, a row a text."""


@dataclass(frozen=True)
class Goal:
    """What is learnt, and what a penalty is chosen by.

    Attributes:
        task: what targets mean.
        num_outputs: columns of probabilities.
        metric: that leads the table.
    """

    task: Task
    num_outputs: int
    metric: str


@dataclass(frozen=True)
class Logistic:
    """A fitted model.

    Attributes:
        goal: what the outputs mean.
        strength: C of the penalty.
        places: the outputs that have a model.
        solution: of these outputs; None where there are none.
        constants: of every output, what stands where no model does.
        tried: every C that was tried to find this one.
        num_folds: how many sets of held-back rows judged them.
    """

    goal: Goal
    strength: float
    places: Int[np.ndarray, " some"]
    solution: Solution | None
    constants: Float[np.ndarray, " output"]
    tried: Mapping[float, Quality] = field(default_factory=dict[float, Quality])
    num_folds: int = 1

    def predict(self, features: Features) -> Float[np.ndarray, "row output"]:
        """Probabilities of every row."""
        columns = np.tile(self.constants, (features.shape[0], 1))
        if self.solution is not None:
            logits = self.solution.logits(features)
            is_softmax = self.goal.task == "multiclass"
            columns[:, self.places] = softmax(logits, 1) if is_softmax else expit(logits)
        return columns

    @property
    def parameters(self) -> int:
        """Numbers that were learnt."""
        if self.solution is None:
            return 0
        return self.solution.weights.size + self.solution.bias.size

    @property
    def quality(self) -> Quality:
        """Of the chosen penalty."""
        return self.tried[self.strength]

    @property
    def facts(self) -> dict[str, Any]:
        """What was chosen, by what, and from what."""
        rows = "validation rows" if self.num_folds == 1 else f"{self.num_folds} folds"
        return {
            "C": self.strength,
            "chosen_by": f"{self.goal.metric} of {rows}",
            "tried": {f"{value:g}": one.facts for value, one in sorted(self.tried.items())},
            "at_edge": is_at_edge(self.tried),
        }


def fit_logistic(
    train: Sample, validation: Sample, goal: Goal, strengths: Sequence[float] = STRENGTHS
) -> Logistic:
    """The model whose penalty is best on validation, learnt from the training rows.

    With fewer than `FEW_ROWS` validation rows a penalty is judged by `FOLDS` folds of all rows.

    Args:
        train: features and targets to learn from.
        validation: those that choose.
        goal: what is learnt, and by what a penalty is chosen.
        strengths: values of C to begin with; beyond an edge that is best more are tried.

    Raises:
        ConvergenceError: a fit does not get to its optimum.
    """
    (learn, held), axes = _rotated(train[0], validation[0])
    every = _joined((learn, train[1]), (held, validation[1]))
    parts = judges(len(train[1]), len(validation[1]))
    is_few = len(parts) > 1
    learners = [_Learner(_some(every, rows), goal) for rows, _ in parts]
    fitted: dict[float, Logistic] = {}

    def measure(strength: float) -> Quality:
        found: list[Quality] = []
        for learner, (_, rows) in zip(learners, parts, strict=True):
            fitted[strength], asked = learner.fit(strength), _some(every, rows)
            said = fitted[strength].predict(asked[0])
            found.append(quality(goal.metric, goal.task, said, asked[1]))
        return together(found)

    tried = widened(strengths, measure)
    best = best_of(tried)
    # The very model that was judged: another way to the same optimum ends a few rows beside it.
    model = _Learner((learn, train[1]), goal).fit(best) if is_few else fitted[best]
    return replace(_turned_back(model, axes), tried=tried, num_folds=len(parts))


def refit(chosen: Logistic, train: Sample, validation: Sample) -> Logistic:
    """A model with the penalty that was chosen, learnt from training and validation rows together.

    Args:
        chosen: by `fit_logistic`.
        train: features and targets.
        validation: likewise.

    Raises:
        ConvergenceError: it does not get to its optimum.
    """
    (learn, held), axes = _rotated(train[0], validation[0])
    learner = _Learner(_joined((learn, train[1]), (held, validation[1])), chosen.goal)
    model = _turned_back(learner.fit(chosen.strength), axes)
    return replace(model, tried=chosen.tried, num_folds=chosen.num_folds)


class _Learner:
    """Fits on the same rows, each of which begins at the optimum before."""

    def __init__(self, sample: Sample, goal: Goal) -> None:
        features, targets = sample
        self.rows, self.goal = Rows(features), goal
        wanted = columns(targets, goal.num_outputs)
        shares = wanted.mean(0)
        # Of a label that no row has, or every row, nothing can be learnt.
        self.constants = np.where(shares == 1, 1.0, 0.0)
        self.places = np.flatnonzero((shares > 0) & (shares < 1))
        self.wanted = wanted[:, self.places]
        self.start: Solution | None = None

    def fit(self, strength: float) -> Logistic:
        if len(self.places):
            link = "softmax" if self.goal.task == "multiclass" else "sigmoid"
            for one in (*self._way(strength), strength):
                self.start = solve(self.rows, self.wanted, one, link, self.start)
        return Logistic(self.goal, strength, self.places, self.start, self.constants)

    def _way(self, strength: float) -> list[float]:
        """Stronger penalties to pass on the way to a weak one from nothing.

        A first Newton step under a weak penalty goes so far that every label is certain of every
        row: nothing bends there, and steps have no length (the path of Friedman et al. 2010).
        """
        return [one for one in STRENGTHS if one < strength] if self.start is None else []


def _rotated(*parts: Features) -> tuple[list[Features], np.ndarray | None]:
    """Dense features in their principal axes, and these."""
    if sparse.issparse(parts[0]):
        return list(parts), None
    dense = [np.asarray(part, dtype=np.float32) for part in parts]
    axes = principal_axes(np.concatenate(dense))
    return (dense if axes is None else [part @ axes for part in dense]), axes


def _turned_back(model: Logistic, axes: np.ndarray | None) -> Logistic:
    if axes is None or model.solution is None:
        return model
    solution = replace(model.solution, weights=axes @ model.solution.weights)
    return replace(model, solution=solution)


def _joined(first: Sample, second: Sample) -> Sample:
    is_sparse = sparse.issparse(first[0])
    features: Any = (sparse.vstack if is_sparse else np.concatenate)([first[0], second[0]])
    if is_sparse:
        features = features.tocsr()
    return features, np.concatenate([first[1], second[1]])


def _some(sample: Sample, rows: Int[np.ndarray, " some"]) -> Sample:
    return sample[0][rows], sample[1][rows]
