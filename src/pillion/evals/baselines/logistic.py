"""Logistic regression on given features: the strength of its penalty is chosen on validation.

Promises columns of probabilities as pillion's metrics want them for each task, also for labels that
no training row has. Does not know where features come from.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pillion.data.labels import Task

STRENGTHS = (1.0, 10.0, 100.0)
"""Values of C: the larger, the weaker the penalty."""

Features = Any
"""A dense or sparse matrix of floats, a row a text."""


@dataclass(frozen=True)
class Logistic:
    """A fitted model.

    Attributes:
        models: one; for multi-label one a label, where None stands for a constant.
        constants: of every output, what stands where no model does.
        task: what the outputs mean.
        strength: C of the penalty.
        log_loss: on validation, in nats a row and decision; nan before it was asked.
    """

    models: tuple[LogisticRegression | None, ...]
    constants: tuple[float, ...]
    task: Task
    strength: float
    log_loss: float

    def predict(self, features: Features) -> Float[np.ndarray, "row output"]:
        """Probabilities of every row."""
        columns = np.tile(np.array(self.constants), (features.shape[0], 1))
        for place, model in enumerate(self.models):
            if model is None:
                continue
            probs = model.predict_proba(features)
            if self.task == "multiclass":
                columns[:, np.asarray(model.classes_, dtype=int)] = probs
            else:
                columns[:, place] = probs[:, 1]
        return columns

    @property
    def parameters(self) -> int:
        """Numbers that were learnt."""
        fitted = [model for model in self.models if model is not None]
        return sum(np.size(model.coef_) + np.size(model.intercept_) for model in fitted)


def fit_logistic(
    train: tuple[Features, Shaped[np.ndarray, "row ..."]],
    validation: tuple[Features, Shaped[np.ndarray, "held ..."]],
    task: Task,
    num_outputs: int,
    strengths: Sequence[float] = STRENGTHS,
    max_iter: int = 100,
) -> Logistic:
    """The model whose penalty gives the smallest log-loss on validation.

    Args:
        train: features and targets to learn from.
        validation: those that choose.
        task: what targets mean.
        num_outputs: columns of probabilities.
        strengths: values of C to choose from.
        max_iter: steps of the solver (L-BFGS), at most.
    """
    tried = [_learn(train, task, num_outputs, strength, max_iter) for strength in strengths]
    fitted = [
        replace(one, log_loss=log_loss(one.predict(validation[0]), validation[1], task))
        for one in tried
    ]
    return min(fitted, key=lambda one: one.log_loss)


def refit(
    chosen: Logistic,
    train: tuple[Features, Shaped[np.ndarray, "row ..."]],
    validation: tuple[Features, Shaped[np.ndarray, "held ..."]],
    max_iter: int = 100,
) -> Logistic:
    """A model with the penalty that was chosen, learnt from training and validation rows together.

    Args:
        chosen: by `fit_logistic`.
        train: features and targets.
        validation: likewise.
        max_iter: steps of the solver, at most.
    """
    stack = sparse.vstack if sparse.issparse(train[0]) else np.concatenate
    rows = (stack([train[0], validation[0]]), np.concatenate([train[1], validation[1]]))
    again = _learn(rows, chosen.task, len(chosen.constants), chosen.strength, max_iter)
    return replace(again, log_loss=chosen.log_loss)


def _learn(
    rows: tuple[Features, np.ndarray], task: Task, num_outputs: int, strength: float, max_iter: int
) -> Logistic:
    features, targets = rows
    columns = targets.T if task == "multilabel" else targets[None]
    models = tuple(_model(features, column, strength, max_iter) for column in columns)
    constants = np.zeros(num_outputs)
    for place, (model, column) in enumerate(zip(models, columns, strict=True)):
        if model is None:
            constants[int(column[0]) if task == "multiclass" else place] = (
                1.0 if task == "multiclass" else float(column[0])
            )
    return Logistic(models, tuple(constants.tolist()), task, strength, math.nan)


def _model(
    features: Features, column: np.ndarray, strength: float, max_iter: int
) -> LogisticRegression | None:
    """None where there is a single class, of which nothing can be learnt."""
    if len(np.unique(column)) < 2:
        return None
    # Not converged after max_iter is one more form of early stopping; validation judges it.
    model = LogisticRegression(C=strength, max_iter=max_iter, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Label ids are classes, however many there are of them.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return model.fit(features, column.astype(int))


def log_loss(
    probs: Float[np.ndarray, "row output"], targets: Shaped[np.ndarray, "row ..."], task: str
) -> float:
    """Cross-entropy in nats a row (multi-class) or decision."""
    safe = np.clip(probs.astype(np.float64), 1e-7, 1 - 1e-7)
    if task == "multiclass":
        return float(-np.log(safe[np.arange(len(safe)), targets.astype(int)]).mean())
    wanted = targets.reshape(safe.shape)
    return float(-(wanted * np.log(safe) + (1 - wanted) * np.log1p(-safe)).mean())
