"""Linear baselines on pooled states: the best single layer, and all layers side by side.

Features are z-scored by the training rows. The layer and the penalty are chosen on validation. Does
not know how states are extracted.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.backends import Step
from pillion_bench.baselines.base import Method, Outcome, Serving, Settings, Workplace
from pillion_bench.baselines.logistic import Goal, Logistic, fit_logistic, refit
from pillion_bench.problem import Part

Pooling = Literal["mean", "last"]
Rows = tuple[np.ndarray, np.ndarray]
"""Features and targets."""

STRENGTHS = (0.001, 0.01, 0.1)
"""Values of C to begin with; chosen edges are gone beyond."""


class PooledSettings(Settings):
    """Settings of a linear baseline on pooled states.

    Attributes:
        pooling: `mean` over tokens, or the `last` token's state.
        strengths: values of C that validation chooses from; several are widened beyond an edge.
        refit: learn once more, from validation rows too, once they have chosen.
    """

    pooling: Pooling = "mean"
    strengths: tuple[float, ...] = STRENGTHS
    refit: bool = False


class PooledMethod(Method):
    """Logistic regression on pooled states."""

    Settings: ClassVar[type[Settings]] = PooledSettings

    def _features(self, place: Workplace, part: Part) -> Float[np.ndarray, "row layer dim"]:
        return place.states.pooled(part, self.settings.pooling)

    def _outcome(
        self,
        place: Workplace,
        places: Sequence[int],
        model: Logistic,
        chosen: dict[str, Any],
    ) -> Outcome:
        """What a model says that was fitted on some of the kept layers, side by side."""
        problem = place.problem
        train, held, scale = self._rows(place, places)
        said = model.predict(held[0])
        if self.settings.refit and problem.test is not None:
            model = refit(model, train, held)

        def ask(part: Part) -> np.ndarray:
            return model.predict(scale(_joined(self._features(place, part), places)))

        facts = {**chosen, **model.facts, "refit": self.settings.refit}
        return Outcome(said, ask, model.parameters, facts)

    def _fit(self, place: Workplace, places: Sequence[int]) -> Logistic:
        """The model with the best penalty."""
        problem = place.problem
        goal = Goal(problem.task, problem.num_outputs, problem.leading[0])
        train, held, _ = self._rows(place, places)
        return fit_logistic(train, held, goal, self.settings.strengths)

    def _rows(self, place: Workplace, places: Sequence[int]) -> tuple[Rows, Rows, Scale]:
        """The rows that teach and choose, and how features are scaled."""
        problem = place.problem
        train = _joined(self._features(place, problem.train), places)
        scale = Scale.of(train)
        held = _joined(self._features(place, problem.validation), places)
        rows = (scale(train), problem.train.targets), (scale(held), problem.validation.targets)
        return *rows, scale

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
    """One layer: the one whose logistic regression, with its own penalty, is best on validation."""

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`."""
        layers = place.states.layers
        models = [self._fit(place, [at]) for at in range(len(layers))]
        best = max(range(len(layers)), key=lambda at: models[at].quality.rank)
        by_layer = {
            str(layer): model.quality.facts | {"C": model.strength}
            for layer, model in zip(layers, models, strict=True)
        }
        chosen = {"layer": layers[best], "by_layer": by_layer}
        return [self._outcome(place, [best], models[best], chosen)]

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`."""
        layers = place.states.layers
        return self._serving(place, [layers[len(layers) // 2]])


class AllLayers(PooledMethod):
    """Every layer's pooled state, side by side."""

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`."""
        layers = place.states.layers
        every = range(len(layers))
        model = self._fit(place, every)
        return [self._outcome(place, every, model, {"layers": list(layers)})]

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
