"""Which layers to read: pooled states of some rows, a study of every layer, a choice by rule.

The rules are two sentences. The recommended set, which `--layers auto` takes, is the smallest of 4,
8 and all layers whose ridge classifier scores within `TOLERANCE` of the best set's. The layer that
silhouettes pick is the inflection point of their curve with the highest silhouette coefficient;
where nothing bends, the layer with the highest one. Knows no files and no command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from pillion.backends import Backend
from pillion.core import Scope
from pillion.extract import Pool, Progress, pooled_states, silent
from pillion.metrics import Interval
from pillion.probe import Artefact
from pillion.select.cost import ReadCost, read_costs
from pillion.select.economics import LayerSet, layer_sets
from pillion.select.ridge import leave_one_out, standardised
from pillion.select.study import LayerRow, OnLayer, Targets, study_layers
from pillion.select.weights import learned_weights

TOLERANCE = 0.005
"""Score that a smaller set of layers may lose: half a point."""
LEAST = 4
"""Layers that `--layers auto` takes at least: on few rows scores cannot tell sets apart, and the
classifier sees pooled tokens where a probe chooses among them."""
MAX_ROWS = 2000
"""Rows that a study reads unless told otherwise."""
WEIGHT_ROWS = 256
"""Rows on which a trained gate's layer weights are averaged."""


@dataclass(frozen=True)
class Identification:
    """What was found of the layers of a model for a task.

    Attributes:
        score_name: what `score` stands for: `accuracy` or `auprc`.
        rows: a row of numbers for every layer.
        recommended: the layer that silhouettes pick; None where they are undefined.
        swept: the layer with the highest score; None where scores are undefined.
        loss: how much worse the first of these two scores; None where one is undefined.
        sets: 1, 2, 4, 8 and all layers, with their scores.
        leads: what each set scores more than the recommended one.
        costs: of reading each set.
        auto: the recommended set, which `--layers auto` takes.
    """

    score_name: str
    rows: tuple[LayerRow, ...]
    recommended: int | None
    swept: int | None
    loss: Interval | None
    sets: tuple[LayerSet, ...]
    leads: tuple[Interval | None, ...]
    costs: tuple[ReadCost, ...]
    auto: tuple[int, ...]

    @property
    def lost(self) -> float | None:
        """How much worse the recommended layer scores than the best of the sweep; 0 or more."""
        return None if self.loss is None else self.loss.estimate


def sample(num_rows: int, max_rows: int) -> Int[np.ndarray, " some"]:
    """Row ids in random order, always the same ones; all rows where there are no more."""
    return np.random.default_rng(0).permutation(num_rows)[:max_rows]


def identify(
    backend: Backend,
    token_ids: Sequence[Sequence[int]],
    targets: Targets,
    pool: Pool = "mean",
    gate: Artefact | None = None,
    progress: Progress = silent,
    scope: Scope = "all",
) -> Identification:
    """Studies every layer on these rows; no probe is trained.

    Args:
        backend: the model.
        token_ids: of the rows, in random order (`sample`).
        targets: their labels.
        pool: how a row's tokens become one vector.
        gate: a trained gate whose layer weights are shown beside the rest.
        progress: told of every batch and layer.
        scope: whose tokens are read.

    Raises:
        ConfigError: `gate` is a probe without layer weights.
        StateError: a state is not finite.
    """
    layers = range(backend.identity.num_layers + 1)
    states = pooled_states(backend, token_ids, layers, pool, progress, scope)
    weights = None
    if gate is not None:
        known = learned_weights(backend, gate, token_ids[:WEIGHT_ROWS])
        weights = [known.get(layer, 0.0) for layer in layers]
    return identify_states(backend, states, targets, weights, progress)


def identify_states(
    backend: Backend,
    states: Float[Tensor, "layer row dim"],
    targets: Targets,
    weights: Sequence[float] | None = None,
    progress: Progress = silent,
) -> Identification:
    """The same from pooled states of all layers, for a caller who has them.

    Args:
        backend: the model that they are of; it is not run.
        states: pooled, one a row, rows in random order.
        targets: their labels.
        weights: mean layer weights of a trained gate.
        progress: told of every layer.
    """
    layers = range(len(states))
    rows = study_layers(states, targets, layers, weights, _as(progress, "study"))
    sets = layer_sets(states, targets, layers, _as(progress, "choose"))
    auto = smallest_good(sets)
    picked, swept = recommend(rows), _best(rows)
    return Identification(
        targets.score_name,
        tuple(rows),
        picked,
        swept,
        _loss(states, targets, picked, swept),
        tuple(sets),
        _leads(sets, targets, auto),
        tuple(read_costs(backend, [one.layers for one in sets], targets.signs.shape[1])),
        auto,
    )


def choose_layers(
    backend: Backend,
    token_ids: Sequence[Sequence[int]],
    targets: Targets,
    progress: Progress = silent,
    scope: Scope = "all",
) -> tuple[int, ...]:
    """The layers of `--layers auto` alone: as `identify` finds them, without the study.

    Raises:
        StateError: a state is not finite.
    """
    layers = range(backend.identity.num_layers + 1)
    states = pooled_states(backend, token_ids, layers, progress=progress, scope=scope)
    return smallest_good(layer_sets(states, targets, layers, _as(progress, "choose")))


def _loss(
    states: Float[Tensor, "layer row dim"], targets: Targets, picked: int | None, swept: int | None
) -> Interval | None:
    """Of the layer that was picked against the best of the sweep."""
    if picked is None or swept is None:
        return None
    best, found = (
        leave_one_out(standardised(states[layer]), targets.signs).scores
        for layer in (swept, picked)
    )
    return targets.difference(best, found)


def _leads(
    sets: Sequence[LayerSet], targets: Targets, chosen: tuple[int, ...]
) -> tuple[Interval | None, ...]:
    """What each set scores more than the chosen one; None for that one itself."""
    base = next(one.left_out for one in sets if one.layers == chosen)
    return tuple(
        None
        if base is None or one.left_out is None or one.layers == chosen
        else targets.difference(one.left_out, base)
        for one in sets
    )


def recommend(rows: Sequence[LayerRow]) -> int | None:
    """The layer that silhouettes alone recommend; None where they are undefined."""
    known = [(row.silhouette, row) for row in rows if row.silhouette is not None]
    bends = [pair for pair in known if pair[1].inflection]
    found = max(bends or known, key=lambda pair: pair[0], default=None)
    return None if found is None else found[1].layer


def smallest_good(sets: Sequence[LayerSet]) -> tuple[int, ...]:
    """The smallest set of `LEAST` layers or more within `TOLERANCE` of the best such set.

    All layers where no score is known, or where there are fewer.
    """
    known = [(one.score, one) for one in sets if one.score is not None and len(one.layers) >= LEAST]
    if not known:
        return sets[-1].layers
    best = max(score for score, _ in known)
    return next(one.layers for score, one in known if score >= best - TOLERANCE)


def _best(rows: Sequence[LayerRow]) -> int | None:
    known = [(row.score, -row.layer) for row in rows if row.score is not None]
    return -max(known)[1] if known else None


def _as(progress: Progress, stage: str) -> OnLayer:
    def on_layer(done: int, total: int) -> None:
        progress(stage, done, total)

    return on_layer
