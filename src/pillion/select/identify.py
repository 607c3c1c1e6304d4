"""Which layers to read: pooled states of some rows, a study of every layer, a choice by rule.

The recommended set, which `--layers auto` takes, is the smallest of 4,
8 and all layers whose ridge classifier scores within `TOLERANCE` of the best set's. Of one layer
alone, `rules` has several. Knows no files and no command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from pillion.backends import Backend
from pillion.core import Scope, defaults
from pillion.extract import Pool, Progress, pooled_states, silent
from pillion.metrics import Interval
from pillion.probe import Artefact
from pillion.select.cost import ReadCost, read_costs
from pillion.select.economics import LayerSet, layer_sets
from pillion.select.rules import RULES
from pillion.select.study import LayerRow, OnLayer, Targets, scores_of, study_layers
from pillion.select.weights import LayerAttention, learned_attention

TOLERANCE = 0.005
"""Score that a smaller set of layers may lose: half a point."""
LEAST = 4
"""Layers that `--layers auto` takes at least: on few rows scores cannot tell sets apart, and the
classifier sees pooled tokens where a probe chooses among them."""
MAX_ROWS = defaults.LAYERS_ROWS
"""Rows that a study reads unless told otherwise."""
WEIGHT_ROWS = 256
"""Rows on which what a trained gate attends to is averaged."""


@dataclass(frozen=True)
class Identification:
    """What was found of the layers of a model for a task.

    Attributes:
        score_name: what `score` stands for: `accuracy` or `auprc`.
        rows: a row of numbers for every layer.
        picked: the layer of each of `RULES`; None where what it goes by is undefined.
        lost: how much worse each rule's layer scores than the best of the sweep; None where either
            is undefined.
        sets: 1, 2, 4, 8 and all layers, with their scores.
        leads: what each set scores more than the recommended one.
        costs: of reading each set.
        auto: the recommended set, which `--layers auto` takes.
    """

    score_name: str
    rows: tuple[LayerRow, ...]
    picked: Mapping[str, int | None]
    lost: Mapping[str, Interval | None]
    sets: tuple[LayerSet, ...]
    leads: tuple[Interval | None, ...]
    costs: tuple[ReadCost, ...]
    auto: tuple[int, ...]


def sample(num_rows: int, max_rows: int) -> Int[np.ndarray, " some"]:
    """Row ids in random order, always the same ones; all rows where there are no more."""
    return np.random.default_rng(0).permutation(num_rows)[:max_rows]


def identify(
    backend: Backend,
    token_ids: Sequence[Sequence[int]],
    targets: Targets,
    pool: Pool = defaults.POOL,
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
        gate: a trained gate: what it attends to is shown beside the rest.
        progress: told of every batch and layer.
        scope: whose tokens are read.

    Raises:
        ConfigError: `gate` is a probe without layer weights.
        StateError: a state is not finite.
    """
    layers = range(backend.identity.num_layers + 1)
    states = pooled_states(backend, token_ids, layers, pool, progress, scope)
    attention = gate and learned_attention(backend, gate, token_ids[:WEIGHT_ROWS])
    return identify_states(backend, states, targets, attention, progress)


def identify_states(
    backend: Backend,
    states: Float[Tensor, "layer row dim"],
    targets: Targets,
    attention: Mapping[int, LayerAttention] | None = None,
    progress: Progress = silent,
) -> Identification:
    """The same from pooled states of all layers, for a caller that has them.

    Args:
        backend: the model that they are of; it is not run.
        states: pooled, one a row, rows in random order.
        targets: their labels.
        attention: of a trained gate, by layer.
        progress: told of every layer.
    """
    layers = range(len(states))
    rows = study_layers(states, targets, layers, attention, _as(progress, "study"))
    sets = layer_sets(states, targets, layers, _as(progress, "choose"))
    auto = smallest_good(sets)
    picked = {name: rule(rows) for name, rule in RULES.items()}
    return Identification(
        targets.score_name,
        tuple(rows),
        picked,
        _lost(states, targets, picked),
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

    Args:
        backend: the model.
        token_ids: of training rows.
        targets: of the same rows.
        progress: told of every batch.
        scope: whose tokens are pooled.

    Raises:
        StateError: a state is not finite.
    """
    layers = range(backend.identity.num_layers + 1)
    states = pooled_states(backend, token_ids, layers, progress=progress, scope=scope)
    return smallest_good(layer_sets(states, targets, layers, _as(progress, "choose")))


def _lost(
    states: Float[Tensor, "layer row dim"], targets: Targets, picked: Mapping[str, int | None]
) -> dict[str, Interval | None]:
    """Of the layer that each rule picks against the best of the sweep."""
    scores = {
        layer: scores_of(states[layer], targets)
        for layer in {layer for layer in picked.values() if layer is not None}
    }
    swept = picked["sweep"]
    best = None if swept is None else scores[swept]
    return {
        name: None if best is None or layer is None else targets.difference(best, scores[layer])
        for name, layer in picked.items()
        if name != "sweep"
    }


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


def smallest_good(sets: Sequence[LayerSet]) -> tuple[int, ...]:
    """The smallest set of `LEAST` layers or more within `TOLERANCE` of the best such set.

    All layers where no score is known, or where there are fewer.
    """
    known = [(one.score, one) for one in sets if one.score is not None and len(one.layers) >= LEAST]
    if not known:
        return sets[-1].layers
    best = max(score for score, _ in known)
    return next(one.layers for score, one in known if score >= best - TOLERANCE)


def _as(progress: Progress, stage: str) -> OnLayer:
    def on_layer(done: int, total: int) -> None:
        progress(stage, done, total)

    return on_layer
