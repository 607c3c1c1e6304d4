"""Linear heads on pooled states that need no training loop: difference of means, LDA, ridge.

Each gives scores whose order counts; a curve through the validation rows makes probabilities of
them. The layer is chosen on validation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeCV

from pillion.backends import Backend
from pillion.metrics import evaluate
from pillion.metrics.calibration import fit_platt, fit_temperature
from pillion.probe.task import Task
from pillion_bench.baselines.base import Method, Outcome, Serving, Settings, Workplace
from pillion_bench.baselines.pooled import AllLayers, BestLayer, PooledSettings
from pillion_bench.problem import Part, Problem, columns

Pooled = Float[np.ndarray, "row layer dim"]
Scores = Float[np.ndarray, "row output"]

PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0)
RIDGE_LAYERS = 11
"""Layers side by side that a ridge reads, evenly spaced: a third of a small model's."""


class ClosedForm(ABC):
    """A head in closed form: fitted on pooled states, it scores others.

    `outputs` is 1 for a binary task, whose one column is the score of the positive label.
    """

    @abstractmethod
    def fit(self, states: Pooled, targets: Float[np.ndarray, "row output"]) -> ClosedForm:
        """Fits on states and zeros and ones of every output."""

    @abstractmethod
    def scores(self, states: Pooled) -> Scores:
        """A score for each row and output: the higher, the likelier."""


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


class ClosedFormSettings(Settings):
    """Settings of a head in closed form.

    Attributes:
        layer: place of the layer among those that are kept; None: validation chooses.
    """

    layer: int | None = None


class ClosedFormMethod(Method):
    """A head on each row's mean of RMS-normalised states."""

    Settings: ClassVar[type[Settings]] = ClosedFormSettings

    @abstractmethod
    def heads(self, num_layers: int) -> dict[int, ClosedForm]:
        """Heads that validation chooses from, by what stands for them in `chosen`."""

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """Its targets are one label a row."""
        several = "A head in closed form is of rows with one label each."
        return several if problem.task == "multilabel" else None

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`."""
        problem, outputs = place.problem, place.problem.num_outputs

        def states(part: Part) -> Pooled:
            return place.states.pooled(part, "mean-rms")

        train, held = map(states, problem.chosen_on)
        wanted = columns(problem.train.targets, outputs)
        # Rows of one label tell nothing: all others score alike.
        learns = len(np.unique(problem.train.targets)) > 1

        def scores(head: ClosedForm, rows: Pooled) -> Scores:
            return head.scores(rows) if learns else np.zeros((len(rows), outputs))

        found: dict[int, tuple[ClosedForm, Scores]] = {}
        for at, head in self.heads(train.shape[1]).items():
            fitted = head.fit(train, wanted) if learns else head
            found[at] = fitted, scores(fitted, held)
        truth = problem.validation.targets
        best = max(found, key=lambda at: _quality(found[at][1], truth, problem.task))
        head, said = found[best]
        to_probs = curve(problem.task, said, truth)
        yield Outcome(
            to_probs(said), lambda part: to_probs(scores(head, states(part))), 0, {"of": best}
        )


class OneLayerMethod(ClosedFormMethod):
    """A head on one layer."""

    head: ClassVar[Callable[[int], ClosedForm]]

    def heads(self, num_layers: int) -> dict[int, ClosedForm]:
        """One a layer, by its place."""
        own = self.settings.layer
        return {at: type(self).head(at) for at in (range(num_layers) if own is None else [own])}

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`: what any linear head on a layer's pooled states takes."""
        return BestLayer(PooledSettings()).serving(place)


class MeansMethod(OneLayerMethod):
    """The line between the means of a label's rows and of the others, on one layer."""

    head = DifferenceOfMeans


class LdaMethod(OneLayerMethod):
    """Linear discriminant analysis on one layer."""

    head = Lda


class RidgeSettings(Settings):
    """A ridge has none."""


class RidgeMethod(ClosedFormMethod):
    """Ridge regression on evenly spaced layers, side by side."""

    Settings: ClassVar[type[Settings]] = RidgeSettings

    def heads(self, num_layers: int) -> dict[int, ClosedForm]:
        """One, by how many layers it reads."""
        layers = np.unique(np.linspace(0, num_layers - 1, RIDGE_LAYERS).round().astype(int))
        return {len(layers): Ridge(layers)}

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`: what any linear head on pooled states takes."""
        return AllLayers(PooledSettings()).serving(place)


def _quality(scores: Scores, targets: Int[np.ndarray, " row"], task: Task) -> float:
    """AUPRC for binary, else accuracy; of scores that only rank."""
    if task == "multiclass":
        return float((scores.argmax(1) == targets).mean())
    ranks = scores.argsort(axis=0).argsort(axis=0) / max(len(scores) - 1, 1)
    return evaluate(ranks, targets, "binary")["auprc"] or 0.0


def curve(
    task: Task, scores: Scores, truth: Int[np.ndarray, " row"]
) -> Callable[[Scores], Float[np.ndarray, "row output"]]:
    """What makes probabilities of scores that only rank: a curve through the validation rows.

    Where validation cannot carry a curve (one side only, or the wrong way round), the plain sigmoid
    or softmax is taken: ranks stay as they are.

    Args:
        task: what the scores are of.
        scores: of the validation rows.
        truth: their label ids.
    """
    if task == "multiclass":
        scale = fit_temperature(scores, truth) if len(np.unique(truth)) > 1 else 1.0
        return lambda said: softmax(scale * said, axis=1)
    scale, offset = 1.0, 0.0
    if 0 < truth.sum() < len(truth):
        fitted = fit_platt(scores[:, 0], truth)
        scale, offset = fitted if fitted[0] > 0 else (scale, offset)
    return lambda said: expit(scale * said + offset)
