"""Rows mixed in pairs: what a step learns from them, and that chance is the seed's alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from marked_rows import marked_rows
from pillion.backends.fake import FakeBackend
from pillion.core import Shape
from pillion.errors import ConfigError
from pillion.extract import LiveSource
from pillion.metrics import evaluate
from pillion.probe import Network, build, make_settings
from pillion.probe.task import loss
from pillion.train import Examples, ProbeConfig, TrainSettings, evaluate_source, train
from pillion.train.learner import MicroBatch
from pillion.train.mixup import Mixing, drawn

LAYERS = (0, 1, 3)
CPU = torch.device("cpu")


def rows(num_rows: int, seed: int) -> Examples:
    tokens, targets = marked_rows(num_rows, seed, tokens=(8, 13), within=3)
    return Examples(LiveSource(FakeBackend(), tokens, LAYERS), targets)


OWN = ProbeConfig(learning_rate=0.02)


def learnt(configs: Sequence[ProbeConfig] = (OWN,), **settings: Any) -> list[Network]:
    how = TrainSettings(epochs=10, batch_size=8, **settings)
    found = train(rows(240, 0), rows(40, 1), "binary", 2, configs, how)
    return [one.network for one in found]


def weights(network: Network) -> Tensor:
    return torch.cat([one.flatten() for one in network.parameters()])


def test_no_mixing_draws_nothing() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert drawn(0.0, 5, CPU) is None
    assert torch.equal(torch.get_rng_state(), before)


def test_each_row_is_mixed_with_one_other_and_keeps_a_share() -> None:
    torch.manual_seed(0)
    found = drawn(0.2, 2000, CPU)
    assert found is not None
    assert sorted(found.other.tolist()) == list(range(2000))
    assert found.share.min() >= 0 and found.share.max() <= 1
    assert float(found.share.mean()) == pytest.approx(0.5, abs=0.03)
    # Beta(0.2, 0.2) has most of its mass near the ends.
    assert float(((found.share < 0.1) | (found.share > 0.9)).float().mean()) > 0.6


@pytest.mark.parametrize("kind", ["gate", "attention", "mha"])
def test_mixed_logits_of_a_pair_are_between_those_of_its_rows(kind: str) -> None:
    network = build(kind, Shape(3, 8, 4), make_settings(kind), 0)
    torch.manual_seed(1)
    votes = network.votes(torch.randn(3, 5, 7, 8), torch.ones(5, 7, dtype=torch.bool))
    mixing = Mixing(torch.tensor([1.0, 0.0, 0.5, 0.25, 1.0]), torch.tensor([3, 4, 0, 1, 2]))
    mixed = mixing.votes(votes)
    torch.testing.assert_close(mixed[:, 0], votes[:, 0])
    torch.testing.assert_close(mixed[:, 1], votes[:, 4])
    torch.testing.assert_close(mixed[:, 2], (votes[:, 2] + votes[:, 0]) / 2)
    torch.testing.assert_close(mixed[:, 3], 0.25 * votes[:, 3] + 0.75 * votes[:, 1])


def test_mixed_logits_of_a_gate_are_those_of_mixed_pooled_states() -> None:
    """What the name says: the head is linear."""
    network: Any = build("gate", Shape(2, 6, 3), make_settings("gate", num_heads=2), 0)
    torch.manual_seed(1)
    pooled = torch.randn(4, 12)  # batch, head x dim
    mixing = drawn(1.0, 4, CPU)
    assert mixing is not None

    def read(states: Tensor) -> Tensor:
        return (states @ network.weight.reshape(12, 3) + network.bias)[None]

    share = mixing.share[:, None]
    mixed = share * pooled + (1 - share) * pooled[mixing.other]
    torch.testing.assert_close(mixing.votes(read(pooled)), read(mixed))


def batch(**more: Any) -> MicroBatch:
    torch.manual_seed(0)
    hidden, mask = torch.randn(2, 4, 5, 6), torch.ones(4, 5, dtype=torch.bool)
    return MicroBatch(hidden, mask, None, torch.tensor([0, 1, 1, 0]), 0.25, **more)


def test_the_loss_of_a_mixed_row_is_of_both_labels_and_of_what_both_rows_count() -> None:
    network = build("gate", Shape(2, 6, 1), make_settings("gate"), 0)
    ones, counts = torch.ones(2), torch.tensor([1.0, 2.0, 0.5, 0.5])
    part = batch(row_weights=counts, mixup=1.0)
    torch.manual_seed(5)
    found = part.losses(network, "binary", ones)
    torch.manual_seed(5)
    mixing = drawn(1.0, 4, CPU)
    assert mixing is not None
    (vote,) = network.votes(part.hidden, part.mask)
    share, other = mixing.share, mixing.other
    mixed = share[:, None] * vote + (1 - share)[:, None] * vote[other]
    own = loss("binary", mixed, part.targets, ones) * counts
    theirs = loss("binary", mixed, part.targets[other], ones) * counts[other]
    torch.testing.assert_close(found, (share * own + (1 - share) * theirs)[None])
    assert not torch.allclose(found, replace(part, mixup=0.0).losses(network, "binary", ones))


@pytest.mark.parametrize("more", [{}, {"prefixes": "uniform"}, {"depths": (1,)}])
def test_a_probe_learns_from_mixed_rows(more: dict[str, Any]) -> None:
    (network,) = learnt(mixup=0.2, **more)
    held = rows(60, 2)
    probs = evaluate_source(network, held.source, "binary").numpy()
    found = evaluate(probs, held.targets, "binary")["auroc"]
    assert found is not None and found > 0.95
    assert not torch.equal(weights(network), weights(*learnt(**more)))


def test_labels_that_were_not_judged_teach_nothing() -> None:
    network = build("gate", Shape(2, 6, 2), make_settings("gate"), 0)
    goals = torch.tensor([[1.0, torch.nan], [0.0, torch.nan], [1.0, torch.nan], [0.0, torch.nan]])
    part = replace(batch(mixup=1.0), targets=goals)
    part.losses(network, "multilabel", torch.ones(2)).sum().backward()
    bias: Any = network.bias
    assert bias.grad[0] != 0 and bias.grad[1] == 0


def test_the_same_seed_mixes_alike_whatever_trains_beside() -> None:
    (alone,) = learnt(mixup=0.5)
    together = learnt([ProbeConfig(probe="mha", seed=4), OWN], mixup=0.5)
    assert torch.equal(weights(alone), weights(together[1]))
    (other,) = learnt([OWN.model_copy(update={"seed": 1})], mixup=0.5)
    assert not torch.equal(weights(alone), weights(other))


def test_a_share_below_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="mixup is -1"):
        TrainSettings(mixup=-1)
