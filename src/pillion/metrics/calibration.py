"""Maps from logits to probabilities that fit labelled rows, fitted by scikit-learn, as numbers.

Promises plain numbers from arrays. Does not know tasks, label names or cards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV

from pillion.errors import DataError

_ONE_SIDED = (
    "All rows agree on a label, so it cannot be calibrated; give rows with it and rows without it."
)

Line = tuple[tuple[float, ...], tuple[float, ...]]


def fit_temperature(
    logits: Float[np.ndarray, "row column"], label_ids: Int[np.ndarray, " row"]
) -> float:
    """The scale of the logits with the smallest log-loss (Guo et al. 2017, section 4.2).

    Args:
        logits: one column (of the positive label), or one a label.
        label_ids: of the rows; with one column 0 or 1.

    Raises:
        DataError: rows of a single label.
    """
    num_columns = logits.shape[1]
    if len(np.unique(label_ids)) < 2:
        raise DataError(_ONE_SIDED)
    # scikit-learn wants a row of every label: one that any scale leaves as it is stands for it.
    absent = np.setdiff1d(np.arange(num_columns), label_ids)
    logits = np.concatenate([logits, np.zeros((len(absent), num_columns))])
    (fitted,) = _fitted("temperature", logits, np.concatenate([label_ids, absent]))
    # scikit-learn takes one column x for two logits, -x and x, which are 2 x apart.
    return float(fitted.beta_) * (2 if num_columns == 1 else 1)


def fit_platt(
    logits: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"]
) -> tuple[float, float]:
    """Scale and offset of a logistic curve through the rows (Platt 1999).

    Targets are smoothed as in section 2.2 of the paper, so rows that are perfectly told apart give
    finite numbers. The scale is not above 0 where rows with the label score no higher than others.

    Raises:
        DataError: rows of one side only.
    """
    fitted = _fitted_column("sigmoid", logits, targets)
    return -float(fitted.a_), -float(fitted.b_)


def fit_isotonic(logits: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"]) -> Line:
    """Logits and probabilities of the knots of a rising line (Zadrozny and Elkan 2002).

    Raises:
        DataError: rows of one side only.
    """
    fitted = _fitted_column("isotonic", logits, targets)
    return tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())


class _Logits(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose rows are their own logits."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.classes_ = np.arange(num_classes)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> _Logits:
        """Nothing is left to fit."""
        return self

    def decision_function(self, X: Any) -> Any:
        """The rows as they are: they hold the logits."""
        return X


def _fitted_column(method: str, logits: np.ndarray, targets: np.ndarray) -> Any:
    if not targets.any() or targets.all():
        raise DataError(_ONE_SIDED)
    (fitted,) = _fitted(method, logits[:, None], targets.astype(np.int64))
    return fitted


def _fitted(method: str, logits: np.ndarray, label_ids: np.ndarray) -> list[Any]:
    ready: Any = _Logits(max(2, logits.shape[1]))
    # Nothing is fitted before the calibration, so it may have every row.
    every = np.arange(len(label_ids))
    model: Any = CalibratedClassifierCV(ready, method=method, cv=[(every, every)])
    model.fit(logits.astype(np.float64), label_ids)
    (one,) = model.calibrated_classifiers_
    return list(one.calibrators)
