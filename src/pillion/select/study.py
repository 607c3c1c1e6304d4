"""What each layer holds about the labels, and which layers to read, before any probe is trained.

Promises numbers of pooled states alone: silhouette coefficients, Fisher's ratio, the score of a
ridge classifier on rows that it has not seen. Knows no engine and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pillion.errors import DataError
from pillion.metrics import (
    Interval,
    evaluate,
    fisher_ratio,
    leading_metric,
    mean_silhouette,
    paired_difference,
    resampled,
)
from pillion.select.curve import inflections, relative_changes
from pillion.select.ridge import leave_one_out, standardised
from pillion.select.weights import UNREAD, LayerAttention

OnLayer = Callable[[int, int], object]
"""Told how many layers are done, and of how many."""


@dataclass(frozen=True)
class Targets:
    """The labels of the rows, as a study needs them.

    Attributes:
        ids: label ids (row,), or 0/1 a label (row, label) for a multi-label task.
        task: `binary`, `multiclass` or `multilabel`.
        num_labels: how many labels there are.
        groups: a number a row, the same for rows that are left out together, such as turns of one
            conversation; None where each is by itself.

    Raises:
        DataError: labels that were not judged.
    """

    ids: Shaped[np.ndarray, "row ..."]
    task: str
    num_labels: int
    groups: Int[np.ndarray, " row"] | None = None

    def __post_init__(self) -> None:
        if np.isnan(self.ids).any():
            raise DataError(
                "Some rows have labels that were not judged, and a study of layers needs rows that "
                "are judged on every label; give such rows, or name the layers."
            )

    def together(self, num_rows: int | None = None) -> Int[np.ndarray, " some"] | None:
        """Groups of the first rows; None where none is apart from the others."""
        found = None if self.groups is None else self.groups[:num_rows]
        return None if found is None or len(np.unique(found)) < 2 else found

    @property
    def score_name(self) -> str:
        """See `leading_metric`."""
        return leading_metric(self.task)

    @property
    def class_ids(self) -> Int[Tensor, " row"]:
        """One class a row; for a multi-label task every different set of labels is a class."""
        if self.task != "multilabel":
            return torch.from_numpy(self.ids)
        return torch.from_numpy(np.unique(self.ids, axis=0, return_inverse=True)[1]).flatten()

    @property
    def signs(self) -> Float[Tensor, "row target"]:
        """1 and -1: one column for a binary task, else one a label."""
        if self.task == "multiclass":
            ids = torch.from_numpy(self.ids)
            return torch.nn.functional.one_hot(ids, self.num_labels).double() * 2 - 1
        return torch.from_numpy(self.ids).double().reshape(len(self.ids), -1) * 2 - 1

    def score(self, scores: Float[Tensor, "row target"]) -> float | None:
        """How well scores of left-out rows rank or decide; None where that is undefined."""
        return evaluate(self._probs(scores), self.ids, self.task)[self.score_name]

    def difference(
        self, scores: Float[Tensor, "row target"], others: Float[Tensor, "row target"]
    ) -> Interval | None:
        """How much better the first scores are, with its interval over draws of the rows."""
        first, second = (
            resampled(self.score_name, [(self._probs(one), None)], self.ids, self.task)
            for one in (scores, others)
        )
        return paired_difference(first, second)

    def _probs(self, scores: Float[Tensor, "row target"]) -> np.ndarray:
        return (scores.softmax(1) if self.task == "multiclass" else scores.sigmoid()).numpy()


@dataclass(frozen=True)
class LayerRow:
    """What one layer holds.

    Attributes:
        layer: its number; 0 is the embeddings.
        silhouette: mean coefficient, Euclidean; None where it is undefined.
        cosine: the same by cosine distance.
        squared: the same by squared Euclidean distance.
        relative_change: of `silhouette` from the layer below, as a share of its range over layers.
        inflection: whether `silhouette` bends here.
        fisher: Fisher's ratio.
        score: of a ridge classifier on this layer, each row scored by a fit on all others.
        weight: mean layer weight of a trained gate; None where none is given.
        entropy: of that gate's token weights, see `LayerAttention`; None if it does not read here.
    """

    layer: int
    silhouette: float | None
    cosine: float | None
    squared: float | None
    relative_change: float | None
    inflection: bool
    fisher: float | None
    score: float | None
    weight: float | None = None
    entropy: float | None = None


def study_layers(
    states: Float[Tensor, "layer row dim"],
    targets: Targets,
    layers: Sequence[int],
    attention: Mapping[int, LayerAttention] | None = None,
    on_layer: OnLayer = lambda done, total: None,
) -> list[LayerRow]:
    """A row of numbers for every layer.

    Args:
        states: pooled, one a row of text.
        targets: their labels.
        layers: the numbers of the layers.
        attention: of a trained gate, by layer.
        on_layer: told of every layer.
    """
    measured: list[LayerRow] = []
    for place, (layer, layer_states) in enumerate(zip(layers, states, strict=True)):
        row = _measure(layer, layer_states, targets)
        if attention is not None:
            own = attention.get(layer, UNREAD)
            row = replace(row, weight=own.weight, entropy=own.entropy)
        measured.append(row)
        on_layer(place + 1, len(layers))
    # Undefined for one layer is undefined for all: it depends on the labels alone.
    curve = [row.silhouette for row in measured if row.silhouette is not None]
    changes = relative_changes(curve) if curve else [None] * len(measured)
    bends = set(inflections(curve))
    return [
        replace(row, relative_change=change, inflection=place in bends)
        for place, (row, change) in enumerate(zip(measured, changes, strict=True))
    ]


def scores_of(states: Float[Tensor, "row dim"], targets: Targets) -> Float[Tensor, "row target"]:
    """What a ridge classifier on one layer says of every row, by a fit on all others."""
    return leave_one_out(standardised(states), targets.signs, targets.together()).scores


def _measure(layer: int, states: Float[Tensor, "row dim"], targets: Targets) -> LayerRow:
    class_ids = targets.class_ids
    return LayerRow(
        layer=layer,
        silhouette=mean_silhouette(states, class_ids, "euclidean"),
        cosine=mean_silhouette(states, class_ids, "cosine"),
        squared=mean_silhouette(states, class_ids, "squared"),
        relative_change=None,
        inflection=False,
        fisher=fisher_ratio(states, class_ids),
        score=targets.score(scores_of(states, targets)),
    )
