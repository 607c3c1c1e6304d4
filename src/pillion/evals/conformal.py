"""Conformal prediction sets: the limit that gives a stated coverage, fitted by MAPIE.

Knows probabilities and targets, no models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from pillion.errors import DataError
from pillion.probe.decisions import Conformal
from pillion.probe.task import Task


def fit_conformal(task: Task, probs: np.ndarray, targets: np.ndarray, coverage: float) -> Conformal:
    """The probability from which labels are in the set, for a coverage on new rows.

    Args:
        task: what the probabilities mean.
        probs: (row, output), of rows that neither the probe nor its calibration was fitted on.
        targets: label ids, or 0/1 a label; for multi-label rows without a label say nothing.
        coverage: share of rows (multi-label: of a row's labels, on average).

    Raises:
        DataError: too few rows for this coverage.
    """
    if task == "multilabel":
        return Conformal(
            method="recall", coverage=coverage, limit=_recall(probs, targets, coverage)
        )
    # MAPIE's own condition on both sides; beside its rounding of a share below one half.
    needed = int(np.ceil(max(1 / (1 - coverage) - 1e-9, 1 / coverage + 1e-9)))
    if len(targets) < needed:
        raise DataError(
            f"A coverage of {coverage:g} takes {needed} rows or more, got {len(targets)}; give "
            f"more rows, or a {'lower' if coverage > 0.5 else 'higher'} coverage."
        )
    return Conformal(method="lac", coverage=coverage, limit=_lac(task, probs, targets, coverage))


class _Rows(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose rows are their own probabilities."""

    def __init__(self, num_classes: int = 2) -> None:
        self.num_classes = num_classes
        self.classes_ = np.arange(num_classes)

    def fit(self, X: Any, y: Any) -> _Rows:
        """Nothing is left to fit."""
        return self

    def predict_proba(self, X: Any) -> Any:
        """The probabilities that were put in, unchanged; shape (row, class)."""
        return X

    def predict(self, X: Any) -> Any:
        """The id of the likeliest class of each row."""
        return X.argmax(axis=1)


def _lac(task: Task, probs: np.ndarray, targets: np.ndarray, coverage: float) -> float:
    from mapie.classification import SplitConformalClassifier
    from mapie.conformity_scores import LACConformityScore

    both = np.hstack([1 - probs, probs]) if task == "binary" else probs
    # MAPIE refuses rows whose fp32 probabilities sum to 1 + 1e-7.
    both = both / both.sum(axis=1, keepdims=True)
    rows: Any = _Rows(both.shape[1])
    score: Any = LACConformityScore()
    fitted = SplitConformalClassifier(rows, confidence_level=coverage, conformity_score=score)
    # The quantile is there once a set has been asked for.
    fitted.conformalize(both, targets).predict_set(both[:1])
    return float(np.clip(1 - score.quantiles_[0], 0, 1))


def _recall(probs: np.ndarray, targets: np.ndarray, coverage: float) -> float:
    from mapie.risk_control import MultiLabelClassificationController

    # Recall asks after the labels that a row has; those that were not judged are not among them.
    targets = np.nan_to_num(targets)
    labelled = targets.sum(axis=1) > 0
    if not labelled.any():
        raise DataError("No row has a label, so a coverage of labels says nothing; give others.")

    def as_they_are(rows: Any) -> Any:
        return rows

    control = MultiLabelClassificationController(
        as_they_are, risk="recall", method="crc", target_level=coverage
    )
    control.calibrate(probs[labelled], targets[labelled].astype(np.int64))
    return float(np.clip(control.best_predict_param[0], 0, 1))
