"""Linear heads on pooled states that need no training loop: means, LDA, ridge.

Each gives scores whose order counts; they are no probabilities. Knows neither layers' names nor
models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float, Int
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeCV

Pooled = Float[np.ndarray, "row layer dim"]
Scores = Float[np.ndarray, "row output"]

PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0)


class ClosedForm(ABC):
    """A head in closed form: fitted on pooled states, it scores others.

    `outputs` is 1 for a binary task, whose one column is the score of the positive label.
    """

    @abstractmethod
    def fit(self, states: Pooled, targets: Float[np.ndarray, "row output"]) -> ClosedForm:
        """Fits on states and zeros and ones of every output."""

    @abstractmethod
    def scores(self, states: Pooled) -> Scores:
        """Higher is likelier."""


class DifferenceOfMeans(ClosedForm):
    """Along the line between the mean of an output's rows and that of the others, on one layer."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def fit(self, states: Pooled, targets: Float[np.ndarray, "row output"]) -> ClosedForm:
        """See `ClosedForm.fit`."""
        rows = states[:, self.layer].astype(np.float32)
        inside = targets.T @ rows / np.maximum(targets.sum(0), 1)[:, None]
        outside = (1 - targets).T @ rows / np.maximum((1 - targets).sum(0), 1)[:, None]
        self.line, self.middle = inside - outside, (inside + outside) / 2
        return self

    def scores(self, states: Pooled) -> Scores:
        """Zero lies midway between the two means."""
        return states[:, self.layer].astype(np.float32) @ self.line.T - (
            self.line * self.middle
        ).sum(1)


class Lda(ClosedForm):
    """Linear discriminant analysis with a shrunken covariance (Ledoit and Wolf 2004), one layer."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def fit(self, states: Pooled, targets: Float[np.ndarray, "row output"]) -> ClosedForm:
        """See `ClosedForm.fit`."""
        self.model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        self.outputs = targets.shape[1]
        ids = targets[:, 0] if self.outputs == 1 else targets.argmax(1)
        self.model.fit(states[:, self.layer].astype(np.float32), ids.astype(np.int64))
        return self

    def scores(self, states: Pooled) -> Scores:
        """Log-odds; a label that no row had scores lowest."""
        found = self.model.decision_function(states[:, self.layer].astype(np.float32))
        if found.ndim == 1 and self.outputs == 1:
            return found[:, None]
        if found.ndim == 1:
            found = np.stack([-found, found], axis=1)
        full = np.full((len(found), self.outputs), found.min() - 1)
        full[:, self.model.classes_] = found
        return full


class Ridge(ClosedForm):
    """Least squares on some layers side by side; the penalty by leave-one-out error."""

    def __init__(self, layers: Int[np.ndarray, " some"]) -> None:
        self.layers = layers

    def fit(self, states: Pooled, targets: Float[np.ndarray, "row output"]) -> ClosedForm:
        """See `ClosedForm.fit`."""
        rows = self._rows(states)
        self.mean, self.scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
        self.model = RidgeCV(alphas=PENALTIES).fit((rows - self.mean) / self.scale, targets)
        return self

    def scores(self, states: Pooled) -> Scores:
        """About 0 without, about 1 with the label."""
        rows = (self._rows(states) - self.mean) / self.scale
        return self.model.predict(rows).reshape(len(states), -1)

    def _rows(self, states: Pooled) -> Float[np.ndarray, "row feature"]:
        return states[:, self.layers].reshape(len(states), -1).astype(np.float32)


def columns(targets: Int[np.ndarray, " row"], outputs: int) -> Float[np.ndarray, "row output"]:
    """Zeros and ones of every output, of label ids."""
    if outputs == 1:
        return targets[:, None].astype(np.float32)
    return np.eye(outputs, dtype=np.float32)[targets]
