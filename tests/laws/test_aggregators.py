"""The laws of every registered aggregator: what `Network.forward` says, tap and fold must say too.

A new name in `AGGREGATORS` is covered without a change here. `VARIANTS` adds settings whose
arithmetic differs from a name's defaults.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pillion.core import Shape
from pillion.errors import ConfigError
from pillion.metrics import evaluate
from pillion.probe import AGGREGATORS, Network, build, make_settings
from pillion.probe.gate import Gate
from pillion.probe.mha import Mha
from pillion.probe.network import Fold, State, first_layers, inverse_rms, join, pick
from pillion.probe.pooling import Pooling
from pillion.probe.task import TASKS, loss, num_outputs, probabilities
from pillion.probe.vote import Vote
from tiny_models import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS, DIM, TOKENS = 3, 6, 11
LENGTHS = (11, 7, 1, 4)
"""Tokens of the batch's rows: full, cut, a single one."""

VARIANTS = [
    *((name, SMALL.get(name, {})) for name in AGGREGATORS),
    ("gate", {"num_heads": 1, "normalise": False}),
    ("gate", {"num_heads": 2, "tanh": True}),
    ("gate", {"num_heads": 2, "members": 3}),
    ("gate-mlp", {"num_heads": 1, "width": 5, "normalise": False}),
    ("attention", {"num_heads": 2, "slope": False}),
    ("attention", {"num_heads": 2, "normalise": False}),
    ("multimax", {"num_heads": 1, "normalise": False}),
    ("rolling", {"num_heads": 2, "window": 2}),
    ("rolling", {"num_heads": 1, "window": 3, "normalise": False}),
    ("rolling", {"num_heads": 2, "window": 40}),
    ("concat", {"normalise": False}),
    ("pooling", {"normalise": True}),
    ("mha", {"width": 8, "num_heads": 1, "normalise": False}),
    ("mha-causal", {"width": 8, "num_heads": 4, "normalise": False}),
]
"""(name, options) of everything the laws run over."""

OUTPUTS = [pytest.param(1, id="binary"), pytest.param(3, id="labels")]
"""Multi-class and multi-label heads are the same arithmetic: one logit a label."""


def _ids(variant: tuple[str, dict[str, Any]]) -> str:
    name, options = variant
    free = {k: v for k, v in options.items() if options is not SMALL.get(name)}
    return "-".join([name, *(f"{k}={v}" for k, v in free.items())])


each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=_ids)
each_name = pytest.mark.parametrize("name", AGGREGATORS)
each_output = pytest.mark.parametrize("outputs", OUTPUTS)
each_side = pytest.mark.parametrize("side", ["right", "left"])


# --- material


def make(
    variant: tuple[str, dict[str, Any]], outputs: int = 3, seed: int = 0, layers: int = LAYERS
) -> Network:
    """A network with weights large enough that tokens, layers and heads differ in their say."""
    name, options = variant
    network = build(name, Shape(layers, DIM, outputs), make_settings(name, **options), seed)
    noise = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise) * 0.7)
    return network.eval()


def states(generator: torch.Generator, batch: int = len(LENGTHS), tokens: int = TOKENS) -> Tensor:
    """Hidden states that differ from layer to layer in size, as residual streams do."""
    growth = torch.tensor([0.5, 1.0, 2.0])[:, None, None, None]
    return torch.randn(LAYERS, batch, tokens, DIM, generator=generator) * growth


def mask_of(lengths: Sequence[int], tokens: int, side: str) -> Tensor:
    places = torch.arange(tokens)
    ends = torch.tensor(lengths)[:, None]
    return places < ends if side == "right" else places >= tokens - ends


def padded(rows: Sequence[Tensor], tokens: int, side: str, fill: float) -> Tensor:
    """[layer, batch, token, dim] of rows [layer, token, dim] of any lengths."""
    pads = [(tokens - r.shape[1], 0) if side == "left" else (0, tokens - r.shape[1]) for r in rows]
    padded_rows = [F.pad(r, (0, 0, *p), value=fill) for r, p in zip(rows, pads, strict=True)]
    return torch.stack(padded_rows, 1)


def rows_of(hidden: Tensor, lengths: Sequence[int] = LENGTHS) -> list[Tensor]:
    return [hidden[:, i, :n] for i, n in enumerate(lengths)]


@torch.no_grad()
def alone(network: Network, rows: Sequence[Tensor]) -> Tensor:
    """The reference: `forward` on each full, unpadded sequence by itself."""
    full = [torch.ones(1, row.shape[1], dtype=torch.bool) for row in rows]
    return torch.cat([network(r[:, None], m) for r, m in zip(rows, full, strict=True)])


def tapped(networks: Sequence[Network], hidden: Tensor) -> Tensor:
    """Values by the sentence in `Tap`, the columns of several networks side by side."""
    taps = [network.tap() for network in networks]
    own = torch.cat([tap.per_layer for tap in taps], -1)
    common = torch.cat([tap.shared for tap in taps], -1).expand(len(own), -1, -1)
    values = hidden @ torch.cat([own, common], -1)[:, None]
    assert values.shape[-1] == sum(tap.num_values for tap in taps)
    return values * inverse_rms(hidden)[..., None] if taps[0].normalise else values


def fold_of(*networks: Network) -> Fold:
    return networks[0].fold_class(networks)


def summaries(fold: Fold, values: Tensor, mask: Tensor, cuts: Sequence[int]) -> list[State]:
    """One state for each chunk between two cuts."""
    edges = [0, *cuts, values.shape[2]]
    return [fold.summarise(values[:, :, a:b], mask[:, a:b]) for a, b in pairwise(edges)]


def merged(fold: Fold, chunks: Sequence[State], rng: random.Random | None = None) -> State:
    """All chunks as one state: from the left, or neighbours in random order if `rng` is given."""
    left = list(chunks)
    while len(left) > 1:
        i = rng.randrange(len(left) - 1) if rng else 0
        left[i : i + 2] = [fold.merge(left[i], left[i + 1])]
    return left[0]


def folded(network: Network, hidden: Tensor, mask: Tensor) -> Tensor:
    """Logits by tap and fold, all tokens in one chunk."""
    fold = fold_of(network)
    return fold.finish(fold.summarise(tapped([network], hidden), mask))


def distance(got: Tensor, wanted: Tensor) -> float:
    """Relative error of all logits together."""
    assert got.shape == wanted.shape
    return ((got - wanted).norm() / wanted.norm()).item()


def assert_equal(got: Tensor, wanted: Tensor, limit: float = 1e-5) -> None:
    assert distance(got, wanted) <= limit


# --- one definition, two ways to it


@each_variant
@each_output
@each_side
def test_tap_and_fold_equal_forward(
    variant: Any, outputs: int, side: str, generator: torch.Generator
) -> None:
    network = make(variant, outputs)
    rows = rows_of(states(generator))
    hidden, mask = padded(rows, TOKENS, side, 0.0), mask_of(LENGTHS, TOKENS, side)

    assert_equal(network(hidden, mask), alone(network, rows))
    assert_equal(folded(network, hidden, mask), alone(network, rows))


@each_variant
def test_folding_one_half_only_is_clearly_another_result(
    variant: Any, generator: torch.Generator
) -> None:
    network, hidden = make(variant), states(generator)
    mask = torch.ones(len(LENGTHS), TOKENS, dtype=torch.bool)
    late = torch.arange(TOKENS) >= TOKENS // 2

    assert distance(folded(network, hidden, mask & late), network(hidden, mask)) > 0.01


@each_variant
def test_other_states_of_some_tokens_are_clearly_another_result(
    variant: Any, generator: torch.Generator
) -> None:
    """The negative control of the laws on padding: where a token is, content counts."""
    network, hidden = make(variant), states(generator)
    mask = torch.ones(len(LENGTHS), TOKENS, dtype=torch.bool)
    other, some = hidden.clone(), [0, 3, TOKENS - 1]
    other[:, :, some] = 5 * torch.randn(other[:, :, some].shape, generator=generator)

    assert distance(network(other, mask), network(hidden, mask)) > 0.01
    assert distance(folded(network, other, mask), folded(network, hidden, mask)) > 0.01


# --- what each token and layer adds

each_additive = pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if make(v).additive], ids=_ids
)


@each_additive
@each_output
@each_side
def test_contributions_and_the_bias_sum_to_the_logits(
    variant: Any, outputs: int, side: str, generator: torch.Generator
) -> None:
    network = make(variant, outputs)
    rows = rows_of(states(generator))
    hidden, mask = padded(rows, TOKENS, side, 1e4), mask_of(LENGTHS, TOKENS, side)
    values = tapped([network], hidden)
    each = network.contributions(values, mask)

    assert each.shape == (LAYERS, *mask.shape, outputs)
    assert_equal(each.sum((0, 2)) + network.bias, alone(network, rows))
    assert not each[:, ~mask].any()


@each_additive
def test_without_a_token_contributions_sum_to_clearly_other_logits(
    variant: Any, generator: torch.Generator
) -> None:
    network, hidden = make(variant), states(generator)
    mask = torch.ones(len(LENGTHS), TOKENS, dtype=torch.bool)
    each = network.contributions(tapped([network], hidden), mask)

    most = each.square().sum((0, 1, 3)).argmax()
    kept = torch.arange(TOKENS) != most
    assert distance(each[:, :, kept].sum((0, 2)) + network.bias, network(hidden, mask)) > 1e-3


def test_gates_poolings_and_attention_are_additive_and_perceptrons_are_not() -> None:
    names = ("gate", "gate-paper", "mha", "mha-causal", "pooling", "concat")
    assert all(make((name, SMALL.get(name, {}))).additive for name in names)
    other = make(("gate-mlp", SMALL["gate-mlp"]))
    assert not other.additive
    with pytest.raises(NotImplementedError, match="no sum over tokens"):
        other.contributions(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, dtype=torch.bool))


def test_weights_of_a_gate_sum_to_one_in_every_row(generator: torch.Generator) -> None:
    network, hidden = make(("gate", {"num_heads": 2})), states(generator)
    mask = mask_of(LENGTHS, TOKENS, "right")
    of_tokens, of_layers = network.attention(tapped([network], hidden), mask)

    assert of_layers.shape == (LAYERS, len(LENGTHS), 2)
    torch.testing.assert_close(of_layers.sum(0), torch.ones(len(LENGTHS), 2))
    has_tokens = mask.any(1)[None, :, None].expand(LAYERS, -1, 2).float()
    torch.testing.assert_close(of_tokens.sum(2), has_tokens)
    assert not of_tokens[:, ~mask].any()
    assert of_layers.std() > 0.01


# --- prefixes

ENDS = (1, 2, 5, 6, TOKENS)


@each_variant
@each_output
@each_side
def test_votes_after_a_prefix_are_those_of_its_tokens_alone(
    variant: Any, outputs: int, side: str, generator: torch.Generator
) -> None:
    network = make(variant, outputs)
    rows = rows_of(states(generator))
    hidden, mask = padded(rows, TOKENS, side, 1e4), mask_of(LENGTHS, TOKENS, side)
    found = network.prefix_votes(hidden, mask, ENDS, inverse_rms(hidden))

    for place, end in enumerate(ENDS):
        assert_equal(found[:, :, place], network.votes(hidden[:, :, :end], mask[:, :end]))
    if side == "right":  # a row that is over is whole in every longer prefix
        cut = [
            network.votes(row[:, None, :4], torch.ones(1, min(4, row.shape[1])).bool())
            for row in rows
        ]
        assert_equal(network.prefix_votes(hidden, mask, [4])[:, :, 0], torch.cat(cut, 1))


@each_variant
def test_prefixes_differ_from_the_whole(variant: Any, generator: torch.Generator) -> None:
    network, hidden = make(variant), states(generator)
    mask = torch.ones(len(LENGTHS), TOKENS, dtype=torch.bool)
    found = network.prefix_votes(hidden, mask, ENDS)

    assert distance(found[:, :, 2], found[:, :, -1]) > 0.01


@each_variant
def test_every_prefix_teaches_the_weights_what_its_tokens_alone_would(
    variant: Any, generator: torch.Generator
) -> None:
    network, rows = make(variant), rows_of(states(generator))
    hidden, mask = padded(rows, TOKENS, "right", 0.0), mask_of(LENGTHS, TOKENS, "right")
    how = torch.randn(len(ENDS), generator=generator)

    def gradient(votes: Tensor) -> Tensor:
        network.zero_grad()
        (votes.square() * how[:, None]).sum().backward()
        found = [p.grad for p in network.parameters() if p.grad is not None]
        return torch.cat([grad.flatten() for grad in found])

    one_by_one = [network.votes(hidden[:, :, :end], mask[:, :end]) for end in ENDS]
    wanted = gradient(torch.stack(one_by_one, dim=2))
    assert_equal(gradient(network.prefix_votes(hidden, mask, ENDS)), wanted, 1e-4)


# --- depths

DEPTHS = (1, 2, LAYERS)
GATES = [variant for variant in VARIANTS if AGGREGATORS[variant[0]].network.depths]


def first(network: Network, num_layers: int) -> Network:
    """A network of the same weights that reads the first layers and no others."""
    shape = Shape(num_layers, DIM, network.shape.num_outputs)
    short = type(network)(shape, network.settings)  # type: ignore[call-arg]
    own = network.state_dict()
    short.load_state_dict(own | {"token_score": own["token_score"][:num_layers]})
    return short.eval()


@pytest.mark.parametrize("variant", GATES, ids=_ids)
@each_output
@each_side
def test_votes_of_a_depth_are_those_of_its_layers_alone_and_what_the_fold_then_gives(
    variant: Any, outputs: int, side: str, generator: torch.Generator
) -> None:
    network = make(variant, outputs)
    hidden = padded(rows_of(states(generator)), TOKENS, side, 1e4)
    mask = mask_of(LENGTHS, TOKENS, side)
    found = network.depth_votes(hidden, mask, DEPTHS, inverse_rms(hidden))
    fold = fold_of(network)
    state = fold.summarise(tapped([network], hidden), mask)

    for place, depth in enumerate(DEPTHS):
        wanted = first(network, depth).votes(hidden[:depth], mask)
        assert_equal(found[:, :, place], wanted)
        assert_equal(fold.finish(first_layers(state, depth)), wanted.mean(0))
    assert distance(found[:, :, 0], found[:, :, -1]) > 0.01


@pytest.mark.parametrize("variant", GATES, ids=_ids)
def test_every_depth_teaches_the_weights_what_its_layers_alone_would(
    variant: Any, generator: torch.Generator
) -> None:
    network, hidden = make(variant), states(generator)
    mask = mask_of(LENGTHS, TOKENS, "right")
    network.depth_votes(hidden, mask, [2]).square().sum().backward()
    short = first(network, 2)
    short.votes(hidden[:2], mask).square().sum().backward()

    for name, parameter in short.named_parameters():
        grad = network.get_parameter(name).grad
        assert grad is not None and parameter.grad is not None
        if name == "token_score":
            assert not grad[2:].any()  # a deeper layer has no say
            grad = grad[:2]
        assert_equal(grad, parameter.grad, 1e-4)


@each_name
def test_a_network_without_depths_says_so(name: str) -> None:
    network = make((name, SMALL.get(name, {})))
    if not network.depths:
        with pytest.raises(NotImplementedError, match="nothing of its first layers alone"):
            network.depth_votes(torch.zeros(LAYERS, 1, 1, DIM), torch.ones(1, 1).bool(), [1])


# --- padding


@each_variant
@each_side
@pytest.mark.parametrize("fill", [0.0, 1.0, -1e4, 1e4])
def test_what_lies_in_the_padding_changes_nothing(
    variant: Any, side: str, fill: float, generator: torch.Generator
) -> None:
    network, rows = make(variant), rows_of(states(generator))
    hidden, mask = padded(rows, TOKENS + 3, side, fill), mask_of(LENGTHS, TOKENS + 3, side)

    assert_equal(network(hidden, mask), alone(network, rows))
    assert_equal(folded(network, hidden, mask), alone(network, rows))


@each_variant
@pytest.mark.parametrize("fill", [torch.nan, torch.inf, -torch.inf])
def test_a_fold_does_not_even_look_at_masked_values(
    variant: Any, fill: float, generator: torch.Generator
) -> None:
    network, rows = make(variant), rows_of(states(generator))
    hidden, mask = padded(rows, TOKENS, "right", 0.0), mask_of(LENGTHS, TOKENS, "right")
    values = tapped([network], hidden).masked_fill(~mask[None, :, :, None], fill)
    fold = fold_of(network)
    chunks = summaries(fold, values, mask, [2, 5])

    assert_equal(fold.finish(merged(fold, chunks)), alone(network, rows))


@each_variant
def test_padding_in_the_middle_changes_nothing(variant: Any, generator: torch.Generator) -> None:
    network, hidden = make(variant), states(generator)
    mask = torch.rand(len(LENGTHS), TOKENS, generator=generator) < 0.6
    mask[:, 4] = True
    rows = [hidden[:, i, mask[i]] for i in range(len(mask))]

    assert_equal(network(hidden, mask), alone(network, rows))
    assert_equal(folded(network, hidden, mask), alone(network, rows))


# --- chunks


@each_variant
@each_output
@pytest.mark.parametrize("seed", range(5))
def test_any_cut_and_any_grouping_of_merges_give_the_same_result(
    variant: Any, outputs: int, seed: int, generator: torch.Generator
) -> None:
    rng = random.Random(seed)
    side = rng.choice(["left", "right"])
    network, rows = make(variant, outputs, seed), rows_of(states(generator.manual_seed(seed)))
    hidden, mask = padded(rows, TOKENS, side, 1e4), mask_of(LENGTHS, TOKENS, side)
    fold, values = fold_of(network), tapped([network], hidden)
    cuts = sorted(rng.sample(range(1, TOKENS), rng.randint(1, TOKENS - 2)))
    chunks = summaries(fold, values, mask, cuts)

    wanted = alone(network, rows)
    assert_equal(fold.finish(merged(fold, chunks)), wanted)
    assert_equal(fold.finish(merged(fold, chunks, rng)), wanted)


@each_variant
@pytest.mark.parametrize("lengths", [(TOKENS,) * 4, LENGTHS], ids=["unpadded", "padded"])
def test_token_by_token_equals_all_at_once(
    variant: Any, lengths: tuple[int, ...], generator: torch.Generator
) -> None:
    network, rows = make(variant), rows_of(states(generator), lengths)
    hidden, mask = padded(rows, TOKENS, "right", 1e4), mask_of(lengths, TOKENS, "right")
    fold = fold_of(network)
    chunks = summaries(fold, tapped([network], hidden), mask, range(1, TOKENS))

    so_far = chunks[0]
    for seen, chunk in enumerate(chunks[1:], start=2):
        so_far = fold.merge(so_far, chunk)
        if seen in (2, 5, TOKENS):
            wanted = alone(network, [row[:, :seen] for row in rows])
            assert_equal(fold.finish(so_far), wanted)


@each_variant
def test_a_chunk_that_is_empty_for_some_rows_is_harmless(
    variant: Any, generator: torch.Generator
) -> None:
    network, hidden = make(variant), states(generator)
    garbage = states(generator, tokens=2) * 1e4
    full = torch.ones(len(LENGTHS), TOKENS, dtype=torch.bool)
    fold, values = fold_of(network), tapped([network], hidden)
    nothing = tapped([network], garbage)
    before, after = summaries(fold, values, full, [5])
    empty = fold.summarise(nothing, torch.zeros(len(LENGTHS), 2, dtype=torch.bool))

    for order in ([empty, before, after], [before, empty, after], [before, after, empty]):
        assert_equal(fold.finish(merged(fold, order)), network(hidden, full))

    some = torch.tensor([[True, True], [False, False], [False, True], [False, False]])
    between = fold.summarise(nothing, some)
    rows = [
        torch.cat([hidden[:, i, :5], garbage[:, i, some[i]], hidden[:, i, 5:]], 1)
        for i in range(len(some))
    ]
    got = fold.finish(merged(fold, [before, between, after]))
    for i in range(len(some)):
        assert_equal(got[i], alone(network, rows)[i], 1e-5 if not some[i].any() else 1e-4)


@each_variant
def test_layers_that_are_summarised_one_at_a_time_equal_all_at_once(
    variant: Any, generator: torch.Generator
) -> None:
    network, hidden = make(variant), states(generator)
    mask = mask_of(LENGTHS, TOKENS, "left")
    fold, values = fold_of(network), tapped([network], hidden)
    chunks = [
        join([fold.summarise(values[i : i + 1, :, a:b], mask[:, a:b]) for i in range(LAYERS)])
        for a, b in ((0, 4), (4, TOKENS))
    ]

    assert_equal(fold.finish(merged(fold, chunks)), network(hidden, mask))


@each_variant
def test_values_may_lie_in_memory_in_any_order(variant: Any, generator: torch.Generator) -> None:
    network, hidden = make(variant), states(generator)
    mask = mask_of(LENGTHS, TOKENS, "right")
    fold, values = fold_of(network), tapped([network], hidden)
    by_token = values.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)
    chunks = summaries(fold, by_token, mask, [4])

    assert_equal(fold.finish(merged(fold, chunks)), network(hidden, mask))
    assert_equal(network(hidden.mT.contiguous().mT, mask), network(hidden, mask))


# --- batches


@each_variant
def test_permuting_the_batch_permutes_the_output(variant: Any, generator: torch.Generator) -> None:
    network, hidden = make(variant), states(generator)
    mask, order = mask_of(LENGTHS, TOKENS, "right"), torch.tensor([2, 0, 3, 1])

    assert_equal(network(hidden[:, order], mask[order]), network(hidden, mask)[order])
    assert_equal(
        folded(network, hidden[:, order], mask[order]), folded(network, hidden, mask)[order]
    )


@each_variant
def test_a_batch_equals_single_requests(variant: Any, generator: torch.Generator) -> None:
    network, rows = make(variant), rows_of(states(generator))
    hidden, mask = padded(rows, TOKENS, "left", 1.0), mask_of(LENGTHS, TOKENS, "left")
    batch, fold_batch = network(hidden, mask), folded(network, hidden, mask)

    for i, row in enumerate(rows):
        single = row[:, None], torch.ones(1, row.shape[1], dtype=torch.bool)
        assert_equal(batch[i : i + 1], network(*single))
        assert_equal(fold_batch[i : i + 1], folded(network, *single))


@each_variant
def test_picked_rows_of_a_state_go_on_as_those_rows(
    variant: Any, generator: torch.Generator
) -> None:
    network, hidden = make(variant), states(generator)
    mask, rows = mask_of(LENGTHS, TOKENS, "left"), torch.tensor([3, 0, 0, 1, 2])
    fold, values = fold_of(network), tapped([network], hidden)
    before, after = summaries(fold, values, mask, [6])
    wanted = network(hidden[:, rows], mask[rows])

    assert_equal(fold.finish(pick(fold.merge(before, after), rows)), wanted)
    later = fold.summarise(values[:, rows, 6:], mask[rows, 6:])
    assert_equal(fold.finish(fold.merge(pick(before, rows), later)), wanted)


# --- many probes, one fold


def _family(name: str) -> list[Network]:
    """Networks of one name that differ in heads (where there are any), members and outputs."""
    options = SMALL.get(name, {})
    heads = [1, 2, 4] if "num_heads" in AGGREGATORS[name].settings.model_fields else [None] * 3
    family = [
        make((name, options if h is None else {**options, "num_heads": h}), outputs, seed)
        for seed, (h, outputs) in enumerate(zip(heads, [3, 1, 2], strict=True))
    ]
    if name == "gate":
        family.append(make((name, {"num_heads": 2, "members": 3}), 2, seed=3))
    return family


@each_name
def test_networks_fused_in_one_fold_equal_each_alone(name: str, generator: torch.Generator) -> None:
    groups: dict[tuple[object, ...], list[Network]] = {}
    for network in _family(name):
        groups.setdefault(network.fold_key, []).append(network)
    rows = rows_of(states(generator))
    hidden, mask = padded(rows, TOKENS, "right", 1e4), mask_of(LENGTHS, TOKENS, "right")

    for networks in groups.values():
        fold, values = fold_of(*networks), tapped(networks, hidden)
        chunks = summaries(fold, values, mask, [1, 6])
        logits = fold.finish(merged(fold, chunks))
        assert logits.shape[1] == sum(n.shape.num_outputs for n in networks)
        for network, columns in zip(networks, fold.columns, strict=True):
            assert_equal(logits[:, columns], alone(network, rows))


@pytest.mark.parametrize("name", ["gate", "gate-paper", "pooling", "concat"])
def test_gates_and_poolings_of_any_heads_and_labels_share_a_fold(name: str) -> None:
    assert len({network.fold_key for network in _family(name)}) == 1


def test_networks_that_read_states_in_another_way_share_no_fold() -> None:
    # Members are heads: a gate with some reads as any other gate.
    networks = [make(variant) for variant in VARIANTS if "members" not in variant[1]]
    shared = {n.fold_key for n in networks}

    assert len(shared) == len(networks)


# --- numbers


@each_variant
def test_bf16_states_are_accumulated_in_fp32(variant: Any, generator: torch.Generator) -> None:
    network, tokens = make(variant), 2_000
    noise = torch.randn(LAYERS, 2, tokens, DIM, generator=generator)
    hidden = (1 + 0.3 * noise).bfloat16()
    mask = mask_of((tokens, 1_500), tokens, "right")
    # A running sum in bf16 gets stuck once a state is less than half its last bit.
    naive = torch.zeros(LAYERS, DIM, dtype=torch.bfloat16)
    for token in hidden[:, 0].unbind(1):
        naive += token
    assert distance(naive.float() / tokens, hidden[:, 0].float().mean(1)) > 0.5

    logits = network(hidden, mask)
    assert logits.dtype == torch.float32
    assert_equal(logits, network(hidden.float(), mask), 0.02)


@each_variant
def test_bf16_values_are_folded_in_fp32(variant: Any, generator: torch.Generator) -> None:
    network, hidden = make(variant), states(generator)
    mask = mask_of(LENGTHS, TOKENS, "left")
    fold, values = fold_of(network), tapped([network], hidden).bfloat16()

    for cuts in ([4, 7], range(1, TOKENS)):
        state = merged(fold, summaries(fold, values, mask, cuts))
        wanted = merged(fold, summaries(fold, values.float(), mask, cuts))
        assert {t.dtype for t in state.values()} <= {torch.float32, torch.bool}
        assert fold.finish(state).dtype == torch.float32
        assert_equal(fold.finish(state), fold.finish(wanted), 1e-6)


@each_variant
def test_a_one_token_row_and_an_empty_row_stay_finite(
    variant: Any, generator: torch.Generator
) -> None:
    network, hidden = make(variant), states(generator)
    mask = mask_of((1, 0, 0, 3), TOKENS, "right")
    fold, values = fold_of(network), tapped([network], hidden)
    chunked = fold.finish(merged(fold, summaries(fold, values, mask, [1, 2])))

    for logits in (network(hidden, mask), folded(network, hidden, mask), chunked):
        assert logits.isfinite().all()
        assert_equal(logits, network(hidden, mask))
    assert torch.equal(network(hidden, mask)[1], network(hidden, mask)[2])


@each_variant
def test_an_empty_row_does_not_spoil_the_gradient(variant: Any, generator: torch.Generator) -> None:
    network, hidden = make(variant), states(generator)
    network(hidden, mask_of((1, 0, 0, 3), TOKENS, "right")).sum().backward()

    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_extreme_states_stay_finite(
    variant: Any, dtype: torch.dtype, generator: torch.Generator
) -> None:
    network = make(variant)
    growth = torch.tensor([1.0, 1e2, 1e4])[:, None, None, None]
    noise = torch.randn(LAYERS, len(LENGTHS), TOKENS, DIM, generator=generator)
    hidden, mask = (noise * growth).to(dtype), mask_of(LENGTHS, TOKENS, "right")
    hidden[:, :, 0] = 0.0
    hidden[-1, :, :, 0] = 1e4
    fold, values = fold_of(network), tapped([network], hidden.float())

    assert network(hidden, mask).isfinite().all()
    assert fold.finish(merged(fold, summaries(fold, values, mask, [1, 3]))).isfinite().all()


# --- training


@each_variant
@each_output
def test_a_gradient_reaches_every_parameter(
    variant: Any, outputs: int, generator: torch.Generator
) -> None:
    network = make(variant, outputs).train()
    hidden, mask = states(generator), mask_of(LENGTHS, TOKENS, "right")
    logits = network(hidden, mask)
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()

    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.count_nonzero() > 0.9 * weight.numel(), name


def separable(task: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Padded rows; every third token and the last point to the row's labels; and the targets.

    These tokens also point to where no label is, so that a score can tell them from the others.
    """
    rows, labels, dim = 288, 3, 12
    lengths = torch.randint(4, 13, (rows,), generator=generator)
    mask = torch.arange(12) < lengths[:, None]
    hidden = torch.randn(LAYERS, rows, 12, dim, generator=generator)
    if task == "multilabel":
        targets = torch.randint(2, (rows, labels), generator=generator)
        direction = targets.float() @ torch.eye(labels, dim)
    else:
        targets = torch.randint(2 if task == "binary" else labels, (rows,), generator=generator)
        direction = torch.eye(labels, dim)[targets]
    direction[:, labels] = 1.0
    points = torch.arange(12) % 3 == 0
    points = points | (torch.arange(12) == lengths[:, None] - 1)
    hidden[1:] += 6 * direction[None, :, None] * points[None, :, :, None]
    return hidden, mask, targets


@each_name
@pytest.mark.parametrize("task", TASKS)
def test_separable_data_is_fitted_and_not_only_memorised(
    name: str, task: Any, generator: torch.Generator
) -> None:
    hidden, mask, targets = separable(task, generator)
    outputs = num_outputs(task, 3)
    settings = make_settings(name, **SMALL.get(name, {}))
    network = build(name, Shape(LAYERS, 12, outputs), settings)
    weights = torch.ones(2 if task == "binary" else 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.03)
    train, held_out = slice(0, 192), slice(192, None)
    for _ in range(64):
        optimizer.zero_grad()
        logits = network(hidden[:, train], mask[train])
        loss(task, logits, targets[train], weights).mean().backward()
        optimizer.step()

    for rows, least in ((train, 0.99), (held_out, 0.9)):
        with torch.no_grad():
            probs = probabilities(task, network.eval()(hidden[:, rows], mask[rows]))
        auroc = evaluate(probs.numpy(), targets[rows].numpy(), task)["auroc"]
        assert auroc is not None
        assert auroc > least


@each_name
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name: str) -> None:
    shape = Shape(LAYERS, DIM, 2)
    one, same, other = (build(name, shape, seed=seed).state_dict() for seed in (4, 4, 5))

    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@each_name
def test_building_leaves_the_random_state_as_it_was(name: str) -> None:
    before = torch.get_rng_state()
    build(name, Shape(LAYERS, DIM, 2), seed=3)

    assert torch.equal(torch.get_rng_state(), before)


@each_variant
def test_evaluation_is_deterministic_whatever_is_dropped_in_training(
    variant: Any, generator: torch.Generator
) -> None:
    name, options = variant
    known = AGGREGATORS[name].settings.model_fields
    dropping = {"dropout": 0.5} if "dropout" in known else {}
    plain, dropped = make(variant), make((name, {**options, **dropping}))
    hidden, mask = states(generator), mask_of(LENGTHS, TOKENS, "right")

    assert torch.equal(dropped(hidden, mask), plain(hidden, mask))
    if dropping:
        assert distance(dropped.train()(hidden, mask), plain(hidden, mask)) > 0.01


# --- the definitions, written out


def _gate_by_hand(network: Any, row: Tensor) -> Tensor:
    """METHODS 1: s_i = tanh(w . x_i), softmax, v = sum a_i x_i; over tokens, then over layers."""
    vectors = []
    for states_of_layer, w in zip(row, network.token_score[:, :, 0], strict=True):
        scores = torch.stack([torch.tanh(w @ x) for x in states_of_layer])
        shares = scores.exp() / scores.exp().sum()
        vectors.append(sum(a * x for a, x in zip(shares, states_of_layer, strict=True)))
    scores = torch.stack([torch.tanh(network.layer_score[0] @ v) for v in vectors])
    shares = scores.exp() / scores.exp().sum()
    vector = sum(a * v for a, v in zip(shares, vectors, strict=True))
    return vector @ network.weight[0] + network.bias


def _attention_by_hand(x: Tensor, qkv: Tensor, out: Tensor, settings: Any, causal: bool) -> Tensor:
    """One layer: heads one after the other, concatenated, back to the states' width."""
    queries, keys, values = (x @ part for part in qkv.chunk(3, dim=-1))
    size = settings.width // settings.num_heads
    heads = []
    for k in range(settings.num_heads):
        q, k_, v = (part[:, k * size : (k + 1) * size] for part in (queries, keys, values))
        scores = q @ k_.T / size**0.5
        if causal:
            scores = scores.masked_fill(~torch.ones_like(scores).tril().bool(), -torch.inf)
        heads.append(torch.softmax(scores, -1) @ v)
    return torch.cat(heads, -1) @ out


def _mha_by_hand(network: Any, row: Tensor) -> Tensor:
    """METHODS 1: downcast Q, K, V, attention, back to d, mean; over tokens, then layers."""
    settings = network.settings
    vectors = []
    for x, qkv, out in zip(row, network.token_qkv, network.token_out, strict=True):
        read = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() if settings.normalise else x
        vectors.append(_attention_by_hand(read, qkv, out, settings, settings.causal).mean(0))
    mixed = _attention_by_hand(
        torch.stack(vectors), network.layer_qkv, network.layer_out, settings, causal=False
    )
    return mixed.mean(0) @ network.weight + network.bias


def _pooling_by_hand(network: Any, row: Tensor) -> Tensor:
    """One matrix on the mean over tokens and layers, or a matrix a layer, added up."""
    x = row
    if network.settings.normalise:
        x = row / (row.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    if not network.settings.by_layer:
        return x.mean((0, 1)) @ network.weight + network.bias
    votes = [one.mean(0) @ w[:, 0] for one, w in zip(x, network.weight, strict=True)]
    return torch.stack(votes).sum(0) + network.bias


def _improved_gate_by_hand(network: Any, row: Tensor) -> Tensor:
    """K heads on RMS-normalised states, no tanh; layer weights and classes of each head's own."""
    x = row / (row.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    total, members = network.bias, network.settings.members
    for k in range(network.settings.num_heads * members):
        shares = torch.softmax((x @ network.token_score[:, :, k, None]).squeeze(-1), 1)
        vectors = (shares[..., None] * x).sum(1)
        by_layer = torch.softmax(vectors @ network.layer_score[k], 0)
        total = total + by_layer @ vectors @ network.weight[k] / members
    return total


def _gate_mlp_by_hand(network: Any, row: Tensor) -> Tensor:
    """Heads one after the other on projected states, fixed layer weights, GELU, linear."""
    x = row
    if network.settings.normalise:
        x = row / (row.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    values = torch.stack([one @ p for one, p in zip(x, network.value, strict=True)])
    units = []
    for k in range(network.settings.num_heads):
        shares = torch.softmax((x @ network.token_score[:, :, k, None]).squeeze(-1), 1)
        vectors = (shares[..., None] * values).sum(1)
        units.append(torch.softmax(network.layer_score[:, k], 0) @ vectors)
    return F.gelu(torch.cat(units)) @ network.weight + network.bias


def _vote_by_hand(network: Any, row: Tensor) -> Tensor:
    """Votes of every head and layer one after the other, over tokens, then over layers."""
    settings = network.settings
    x = row
    if settings.normalise:
        x = row / (row.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    total = network.bias
    for k in range(settings.num_heads):
        columns = network.weight[0, :, k]
        votes = [_pool_by_hand(network, one, one @ columns, i, k) for i, one in enumerate(x)]
        total = total + network.layer_score[:, k].softmax(0) @ torch.stack(votes)
    return total


def _pool_by_hand(network: Any, x: Tensor, votes: Tensor, layer_id: int, k: int) -> Tensor:
    kind, size = network.settings.tokens, network.settings.window
    if kind == "max":
        return votes.amax(0)
    scores = x @ network.token_score[layer_id, :, k]
    if kind == "attention":
        places = torch.arange(len(x)) / 100 if network.settings.slope else torch.zeros(len(x))
        slope = network.slope[k] if network.settings.slope else 0.0
        return (scores + slope * places).softmax(0) @ votes
    starts = range(max(1, len(x) - size + 1))
    windows = [slice(i, min(i + size, len(x))) for i in starts]
    return torch.stack([scores[w].softmax(0) @ votes[w] for w in windows]).amax(0)


BY_HAND = [
    (("gate-paper", {}), _gate_by_hand),
    (("gate", {"num_heads": 3}), _improved_gate_by_hand),
    (("gate", {"num_heads": 2, "members": 3}), _improved_gate_by_hand),
    *((variant, _gate_mlp_by_hand) for variant in VARIANTS if variant[0] == "gate-mlp"),
    *((v, _vote_by_hand) for v in VARIANTS if AGGREGATORS[v[0]].network is Vote),
    *((v, _pooling_by_hand) for v in VARIANTS if AGGREGATORS[v[0]].network is Pooling),
    *((variant, _mha_by_hand) for variant in VARIANTS if variant[0].startswith("mha")),
]


@pytest.mark.parametrize(
    ("variant", "by_hand"), BY_HAND, ids=lambda x: _ids(x) if isinstance(x, tuple) else ""
)
@torch.no_grad()
def test_forward_is_the_formula_written_out(
    variant: Any, by_hand: Any, generator: torch.Generator
) -> None:
    network, rows = make(variant), rows_of(states(generator))
    hidden, mask = padded(rows, TOKENS, "right", 1e4), mask_of(LENGTHS, TOKENS, "right")
    wanted = torch.stack([by_hand(network, row) for row in rows])

    assert_equal(network(hidden, mask), wanted)


def test_every_member_learns_as_a_gate_of_its_own(generator: torch.Generator) -> None:
    """Its votes are those of a lone gate with its weights, its gradient a third of that gate's."""
    network, wanted = make(("gate", {"num_heads": 2, "members": 3})), torch.tensor([0, 2, 1, 1])
    hidden, mask = states(generator), mask_of(LENGTHS, TOKENS, "right")
    votes = network.votes(hidden, mask)
    losses = torch.stack([loss("multiclass", vote, wanted, torch.ones(3)) for vote in votes])
    losses.mean(0).sum().backward()

    assert distance(votes.mean(0), network(hidden, mask)) < 1e-6
    assert distance(votes[0], votes[1]) > 0.1
    for number, vote in enumerate(votes):
        lone: Any = make(("gate", {"num_heads": 2}))
        heads = slice(2 * number, 2 * number + 2)
        with torch.no_grad():
            for name, parameter in lone.named_parameters():
                whole = network.get_parameter(name)
                parameter.copy_(_of_heads(name, whole, heads))
        said = lone(hidden, mask)
        loss("multiclass", said, wanted, torch.ones(3)).sum().backward()
        assert distance(said, vote) < 1e-5
        for name, parameter in lone.named_parameters():
            if name != "bias":  # which all members share
                mine = _of_heads(name, network.get_parameter(name).grad, heads)
                assert_equal(mine, parameter.grad / 3)


def _of_heads(name: str, whole: Any, heads: slice) -> Tensor:
    if name == "bias":
        return whole
    return whole[..., heads] if name == "token_score" else whole[heads]


LARGE = Shape(num_layers=31, dim=576, num_outputs=6)
HEAD = 576 * 6 + 6


def test_the_papers_gate_has_a_vector_a_layer_and_one_for_the_layers() -> None:
    assert build("gate-paper", LARGE).num_parameters == (31 + 1) * 576 + HEAD


def test_attention_has_four_projections_a_layer_and_four_for_the_layers() -> None:
    for name in ("mha", "mha-causal"):
        network = build(name, LARGE, make_settings(name, width=32))
        assert network.num_parameters == (31 + 1) * 4 * 576 * 32 + HEAD


def test_a_gate_of_eight_heads_has_175_thousand_parameters() -> None:
    assert build("gate", LARGE).num_parameters == 175_110


def test_pooling_has_a_head_only_and_concat_one_a_layer() -> None:
    assert build("pooling", LARGE).num_parameters == HEAD
    assert build("concat", LARGE).num_parameters == 31 * 576 * 6 + 6


@pytest.mark.parametrize("heads", [1, 8])
@pytest.mark.parametrize("outputs", [1, 6])
def test_a_gate_taps_a_score_a_layer_score_and_its_classes_a_head(heads: int, outputs: int) -> None:
    tap = make(("gate", {"num_heads": heads}), outputs).tap()

    assert tap.num_values == heads * (1 + 1 + outputs)


# --- the checks themselves


def _wrong_calls(network: Network) -> Iterator[tuple[Any, ...]]:
    hidden, mask = torch.randn(LAYERS, 2, 4, DIM), torch.ones(2, 4, dtype=torch.bool)
    fold = fold_of(network)
    values = tapped([network], hidden)
    yield network.forward, hidden, mask[:, :3]
    yield network.forward, hidden[0], mask
    yield network.forward, hidden, mask.float()
    yield fold.summarise, values, mask[:1]
    yield fold.summarise, values[:, :, 0], mask


@each_name
def test_a_wrong_shape_raises_while_testing(name: str) -> None:
    for call, *arguments in _wrong_calls(make((name, SMALL.get(name, {})))):
        with pytest.raises(jaxtyping.TypeCheckError):
            call(*arguments)


def test_a_wrong_type_raises_while_testing() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        build("gate", "31 layers")  # type: ignore[arg-type]


def test_attention_that_is_causal_by_halves_is_refused() -> None:
    """`mha-causal` with causal=False gave another result in chunks than all at once."""
    for name, causal in (("mha-causal", False), ("mha", True)):
        with pytest.raises(ConfigError, match="choose by name"):
            build(name, Shape(LAYERS, DIM, 1), make_settings(name, causal=causal))


def test_a_stream_costs_the_same_for_every_token_unless_a_class_says_otherwise() -> None:
    unbounded = {name for name, entry in AGGREGATORS.items() if not entry.network.streamable}

    assert unbounded == {"mha"}
    assert issubclass(AGGREGATORS["gate"].network, Gate)
    assert issubclass(AGGREGATORS["mha"].network, Mha)
