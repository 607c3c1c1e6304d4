"""Which layers are chosen, where it is known which ones hold the labels."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pillion.backends.fake import FakeBackend
from pillion.extract import LiveSource, pooled_states
from pillion.probe.untrained import untrained
from pillion.select import (
    LayerRow,
    LayerSet,
    Targets,
    choose_layers,
    identify,
    layer_sets,
    sample,
    smallest_good,
    study_layers,
)
from pillion.select.rules import by_entropy, by_silhouette, by_weight
from pillion.select.weights import UNREAD, LayerAttention, entropy, learned_attention

LAYERS, ROWS, DIM = 12, 120, 8


def material(generator: torch.Generator) -> tuple[Tensor, Targets]:
    """Noise, but for layer 3, which holds one bit of four classes, and layer 9, the other one."""
    ids = torch.randint(0, 4, (ROWS,), generator=generator)
    states = torch.randn(LAYERS, ROWS, DIM, generator=generator)
    states[3, :, 0] += 6 * (ids % 2)
    states[9, :, 0] += 6 * (ids // 2)
    return states, Targets(ids.numpy(), "multiclass", 4)


def row(layer: int, silhouette: float | None, inflection: bool = False) -> LayerRow:
    return LayerRow(layer, silhouette, None, None, None, inflection, None, None)


def test_layers_that_hold_different_halves_of_the_labels_are_chosen_together(
    generator: torch.Generator,
) -> None:
    sets = layer_sets(*material(generator), range(LAYERS))

    assert [len(one.layers) for one in sets] == [1, 2, 4, 8, LAYERS]
    assert sets[1].layers == (3, 9)
    assert (sets[1].score or 0) > 0.85 and (sets[0].score or 1) < 0.7
    for small, large in pairwise(sets):
        assert set(small.layers) < set(large.layers)
    assert smallest_good(sets) == sets[2].layers


def test_the_study_shows_which_layers_hold_anything(generator: torch.Generator) -> None:
    rows = study_layers(*material(generator), range(LAYERS))
    scores = [one.score or 0 for one in rows]

    assert sorted(sorted(range(LAYERS), key=scores.__getitem__)[-2:]) == [3, 9]
    assert {one.layer for one in rows if one.inflection} >= {3, 9}
    assert by_silhouette(rows) in (3, 9)


def test_the_recommended_layer_is_the_highest_bend_else_the_highest_layer() -> None:
    assert by_silhouette([row(0, 0.9), row(1, 0.1, True), row(2, 0.3, True), row(3, 0.5)]) == 2
    assert by_silhouette([row(0, -0.2), row(1, -0.1), row(2, -0.3)]) == 1
    assert by_silhouette([row(0, None), row(1, None)]) is None


def test_the_smallest_set_that_loses_half_a_point_at_most_is_taken() -> None:
    four, eight, many = (tuple(range(size)) for size in (4, 8, 12))
    sets = [LayerSet(four, 0.896), LayerSet(eight, 0.9), LayerSet(many, 0.89)]
    assert smallest_good(sets) == four
    assert smallest_good([LayerSet(four, 0.89), *sets[1:]]) == eight
    assert smallest_good([LayerSet((4,), None), LayerSet((0, 1, 4), None)]) == (0, 1, 4)


def test_auto_takes_no_fewer_than_four_layers_where_there_are_as_many() -> None:
    four = LayerSet((1, 4, 7, 9), 0.6)
    assert smallest_good([LayerSet((4,), 0.9), LayerSet((4, 7), 0.9), four]) == four.layers
    assert smallest_good([LayerSet((0,), 0.9), LayerSet((0, 1), 0.8)]) == (0, 1)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_other_tasks_are_scored_by_how_well_they_rank(
    task: str, generator: torch.Generator
) -> None:
    states, four = material(generator)
    ids = four.ids % 2 if task == "binary" else np.eye(4, dtype=np.float32)[four.ids]
    targets = Targets(ids, task, 2 if task == "binary" else 4)
    rows = study_layers(states, targets, range(LAYERS))

    assert targets.score_name == "auprc"
    assert len(targets.class_ids) == ROWS
    assert (rows[3].score or 0) > 0.45 > 0.3 > min(one.score or 0 for one in rows) - 0.3


def test_one_row_a_class_leaves_silhouettes_undefined_and_nothing_fails() -> None:
    states = torch.randn(3, 4, DIM)
    rows = study_layers(states, Targets(np.arange(4), "multiclass", 4), range(3))

    assert all(one.silhouette is None and one.relative_change is None for one in rows)
    assert by_silhouette(rows) is None


@pytest.mark.parametrize("pool", ["mean", "mean-rms", "last"])
def test_pooled_states_are_those_of_each_row_alone(pool: str) -> None:
    backend, layers = FakeBackend(), (0, 2, 3)
    tokens = [backend.encode(text, "raw") for text in ("a", "bcd", "some longer text", "ef")]
    got = pooled_states(backend, tokens, layers, pool)  # pyright: ignore[reportArgumentType]

    for place, ids in enumerate(tokens):
        hidden = LiveSource(backend, [ids], layers).read_batch([0])[0][:, 0]
        if pool == "mean-rms":
            hidden = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        wanted = hidden[:, -1] if pool == "last" else hidden.mean(1)
        torch.testing.assert_close(got[:, place], wanted)


def test_a_row_is_not_told_by_another_turn_of_its_conversation(generator: torch.Generator) -> None:
    """Of labels that go by chance with a conversation all layers together knew every one."""
    groups, random = np.repeat(np.arange(60), 4), np.random.default_rng(0)
    order = random.permutation(240)
    ids = random.integers(0, 2, 60)[groups][order]
    states = torch.randn(5, 60, 32, generator=generator)[:, groups]
    states = (states + 0.3 * torch.randn(5, 240, 32, generator=generator))[:, order]
    alone, together = Targets(ids, "binary", 2), Targets(ids, "binary", 2, groups[order])
    scores = [
        [layer_sets(states, targets, range(5))[-1].score or 0.0, study[0].score or 0.0]
        for targets in (alone, together)
        for study in [study_layers(states, targets, range(5))]
    ]
    assert min(scores[0]) > 0.85 and max(scores[1]) < 0.8  # two thirds are positive
    one = Targets(ids, "binary", 2, np.zeros(240, dtype=int))  # nothing is left to learn from
    assert layer_sets(states, one, range(5))[-1].score == scores[0][0]


def test_a_whole_identification_is_the_same_again_and_auto_is_its_set() -> None:
    backend = FakeBackend()
    texts = [f"{'good' if i % 2 else 'bad'} {i}" for i in range(30)]
    tokens = [backend.encode(text, "raw") for text in texts]
    targets = Targets(np.arange(30) % 2, "binary", 2)
    found, again = (identify(backend, tokens, targets) for _ in range(2))

    assert found.rows == again.rows and found.sets == again.sets
    assert found.auto == choose_layers(backend, tokens, targets)
    lost = found.lost["silhouette"]
    assert lost is not None and lost.estimate >= 0
    assert found.lost["weight"] is None and found.picked["weight"] is None
    assert [cost.state_bytes_a_token for cost in found.costs] == [64, 128, 256]
    assert [cost.blocks_share for cost in found.costs][-1] == 1
    assert all(cost.milliseconds > 0 for cost in found.costs)


def test_rows_are_drawn_in_the_same_random_order_every_time() -> None:
    assert (sample(50, 20) == sample(50, 20)).all()
    assert len(set(sample(50, 20).tolist())) == 20
    assert sorted(sample(5, 20).tolist()) == list(range(5))
    assert sample(50, 50).tolist() != list(range(50))


def test_what_a_gate_attends_to_is_the_mean_over_its_heads() -> None:
    """Of the first head alone, what the others read would be called unread."""
    backend = FakeBackend()
    gate = untrained("g", backend.identity, settings={"num_heads": 3})
    network: Any = gate.network
    rows = [backend.encode(text, "raw") for text in ("a word", "another, longer one")]
    found = list(learned_attention(backend, gate, [*rows, rows[0][:1]]).values())
    wanted, spread = torch.zeros(4, 3), torch.zeros(4, 3)
    for ids in [*rows, rows[0][:1]]:
        hidden = LiveSource(backend, [ids], (0, 1, 2, 3)).read_batch([0])[0]
        mask = torch.ones(1, len(ids), dtype=torch.bool)
        tap = network.tap()
        scale = network.settings.normalise
        values = (
            hidden * (hidden.square().mean(-1, keepdim=True) + 1e-6).rsqrt() if scale else hidden
        )
        columns = torch.einsum("lbtd,ldk->lbtk", values, tap.per_layer)
        shared = values @ tap.shared
        both = torch.cat([columns, shared], -1)[..., : 2 * network.num_heads]
        tokens, by_layer = network._weights(both, mask)
        wanted += by_layer[:, 0]
        if len(ids) > 1:
            spread -= (tokens * tokens.log()).sum(2)[:, 0] / math.log(len(ids)) / len(rows)
    wanted /= len(rows) + 1
    assert (wanted.max(1).values - wanted.min(1).values).max() > 1e-3
    assert (spread.max(1).values - spread.min(1).values).max() > 1e-4
    for name, values in (("weight", wanted), ("entropy", spread)):
        got = torch.tensor([getattr(one, name) for one in found])
        torch.testing.assert_close(got, values.mean(1), atol=1e-4, rtol=1e-3)


def test_entropy_is_one_of_equal_weights_none_of_a_single_token_and_of_short_rows_unknown() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    weights = torch.zeros(1, 3, 4, 1)
    weights[0, 0, :3], weights[0, 1, 0], weights[0, 2, 0] = 1 / 3, 1, 1
    torch.testing.assert_close(entropy(weights, mask), torch.tensor([[1.0, 0.0]]))


def test_a_gate_picks_what_it_counts_most_and_where_it_reads_the_fewest_tokens() -> None:
    rows = [
        replace(row(0, 0.9), weight=0.2, entropy=0.9),
        replace(row(1, 0.1), weight=0.5, entropy=0.8),
        replace(row(2, 0.1), weight=0.3, entropy=0.7),
        replace(row(3, 0.1), weight=UNREAD.weight, entropy=UNREAD.entropy),
    ]
    assert (by_weight(rows), by_entropy(rows)) == (1, 2)
    assert by_weight([row(0, 0.9)]) is by_entropy([row(0, 0.9)]) is None


def test_the_study_says_what_a_gate_does_with_each_layer(generator: torch.Generator) -> None:
    attention = {3: LayerAttention(1.0, 0.5)}
    rows = study_layers(*material(generator), range(LAYERS), attention)
    assert [(one.weight, one.entropy) for one in rows[3:5]] == [(1.0, 0.5), (0.0, None)]
