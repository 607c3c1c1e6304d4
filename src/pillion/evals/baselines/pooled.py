"""Linear baselines on pooled states: the best single layer, and all layers side by side.

Features are z-scored by the training rows. The layer and the penalty are chosen on validation. Does
not know how states are extracted.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.backends import Step
from pillion.evals.baselines.base import Method, Outcome, Serving, Settings, Workplace
from pillion.evals.baselines.logistic import Logistic, fit_logistic, refit
from pillion.evals.problem import Part
from pillion.evals.states import Pooling

Rows = tuple[np.ndarray, np.ndarray]
"""Features and targets."""

STRENGTHS = (0.001, 0.01, 0.1)
LAYER_STRENGTH = 0.01
"""C at which layers are compared; the best one then gets its own."""


class PooledSettings(Settings):
    """Settings of a linear baseline on pooled states.

    Attributes:
        pooling: `mean` over tokens, or the `last` token's state.
        strengths: values of C that validation chooses from.
        max_iter: steps of the solver, at most.
        refit: learn once more, from validation rows too, once they have chosen.
    """

    pooling: Pooling = "mean"
    strengths: tuple[float, ...] = STRENGTHS
    max_iter: int = 100
    refit: bool = False


class PooledMethod(Method):
    """Logistic regression on pooled states."""

    Settings: ClassVar[type[Settings]] = PooledSettings

    def _features(self, place: Workplace, part: Part) -> Float[np.ndarray, "row layer dim"]:
        return place.states.pooled(part, self.settings.pooling)

    def _outcome(self, place: Workplace, places: Sequence[int], chosen: dict[str, Any]) -> Outcome:
        """The outcome on some of the kept layers, side by side."""
        problem, settings = place.problem, self.settings
        model, train, held, scale = self._fit(place, places, settings.strengths)
        said = model.predict(held[0])
        if settings.refit:
            model = refit(model, train, held, settings.max_iter)
        test = model.predict(scale(_joined(self._features(place, problem.test), places)))
        facts = {**chosen, "C": model.strength, "refit": settings.refit}
        return Outcome(said, test, model.parameters, facts)

    def _fit(
        self, place: Workplace, places: Sequence[int], strengths: Sequence[float]
    ) -> tuple[Logistic, Rows, Rows, Scale]:
        """The best model, the rows that taught and chose it, and how features are scaled."""
        problem = place.problem
        train = _joined(self._features(place, problem.train), places)
        scale = Scale.of(train)
        held = _joined(self._features(place, problem.validation), places)
        rows = (scale(train), problem.train.targets), (scale(held), problem.validation.targets)
        model = fit_logistic(
            *rows, problem.task, problem.num_outputs, strengths, self.settings.max_iter
        )
        return model, *rows, scale

    def _serving(self, place: Workplace, layers: Sequence[int]) -> Serving:
        states, num_outputs = place.states, place.problem.num_outputs
        width = len(layers) * states.backend.identity.dim
        weights = torch.zeros(width + 1, num_outputs)
        reader = PoolingReader(weights, self.settings.pooling)

        @contextmanager
        def riding() -> Generator[PoolingReader]:
            with states.backend.watch(reader, layers):
                yield reader

        return Serving(weights.nbytes, riding=riding, after=lambda read, _: read.logits())


class BestLayer(PooledMethod):
    """One layer: the one whose logistic regression has the smallest log-loss on validation."""

    def fit(self, place: Workplace, seeds: Sequence[int]) -> list[Outcome]:
        """See `Method.fit`."""
        layers = place.states.layers
        losses = [
            self._fit(place, [at], (LAYER_STRENGTH,))[0].log_loss for at in range(len(layers))
        ]
        best = int(np.argmin(losses))
        by_layer = {str(layer): round(x, 4) for layer, x in zip(layers, losses, strict=True)}
        chosen = {"layer": layers[best], "log_loss_by_layer": by_layer}
        return [self._outcome(place, [best], chosen)]

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`."""
        layers = place.states.layers
        return self._serving(place, [layers[len(layers) // 2]])


class AllLayers(PooledMethod):
    """Every layer's pooled state, side by side."""

    def fit(self, place: Workplace, seeds: Sequence[int]) -> list[Outcome]:
        """See `Method.fit`."""
        layers = place.states.layers
        return [self._outcome(place, range(len(layers)), {"layers": list(layers)})]

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`."""
        return self._serving(place, place.states.layers)


class Scale:
    """z-scores by the mean and deviation of training rows; a constant feature stays 0."""

    def __init__(
        self, mean: Float[np.ndarray, " feature"], deviation: Float[np.ndarray, " feature"]
    ) -> None:
        self.mean, self.deviation = mean, np.where(deviation > 0, deviation, 1)

    @classmethod
    def of(cls, rows: Float[np.ndarray, "row feature"]) -> Scale:
        """The scale of these rows."""
        return cls(rows.mean(0), rows.std(0))

    def __call__(self, rows: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row feature"]:
        """The rows on this scale, in their own dtype."""
        return (rows - self.mean) / self.deviation


class PoolingReader:
    """Pools each layer where it is born and multiplies by the weights when the pass is over.

    Args:
        weights: [feature + 1, output], the bias last.
        how: `mean` or `last`.
    """

    def __init__(self, weights: Float[Tensor, "feature output"], how: Pooling) -> None:
        self.weights, self.how = weights, how
        self._pooled: list[Tensor] = []

    def start(self, step: Step) -> None:
        """A pass begins; one text, no padding."""
        self._pooled = []

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Keeps the pooled state."""
        self._pooled.append((hidden[:, -1] if self.how == "last" else hidden.mean(1)).float())

    def end(self, cache: object | None) -> None:
        """Nothing to do: `logits` reads out."""

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """Passes here keep no KV cache."""

    def logits(self) -> Float[Tensor, "batch output"]:
        """Of the text that was read."""
        weights = self.weights.to(self._pooled[0].device)
        return torch.cat(self._pooled, -1) @ weights[:-1] + weights[-1]


def _joined(
    features: Float[np.ndarray, "row layer dim"], places: Sequence[int]
) -> Float[np.ndarray, "row feature"]:
    if len(places) == features.shape[1]:
        return features.reshape(len(features), -1)
    return features[:, list(places)].reshape(len(features), -1)
