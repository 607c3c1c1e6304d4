"""Which prefixes training learns from, what they count, and what a probe learns from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marked_rows import marked_rows
from pillion.backends.fake import FakeBackend
from pillion.errors import ConfigError
from pillion.extract import LiveSource
from pillion.metrics import evaluate
from pillion.train import Examples, ProbeConfig, Trained, TrainSettings, evaluate_source, train
from pillion.train.prefixes import MAX_PREFIXES, Prefixes, drawn, prefix_losses, prefixes_there

LAYERS = (0, 1, 3)


def test_the_prefixes_of_a_step_rise_to_its_longest_row_and_are_few() -> None:
    for longest in (1, 2, 5, 16, 17, 192, 5000):
        found = [drawn("uniform", longest, 0, step) for step in range(20)]
        for one in found:
            assert one is not None
            assert list(one.ends) == sorted(set(one.ends))
            assert one.ends[0] >= 1 and one.ends[-1] == longest
            assert len(one.ends) == min(longest, MAX_PREFIXES)
        if longest > 100:
            assert len({one.ends for one in found if one}) == 20
    assert drawn("none", 10, 0, 0) is None


def test_every_token_is_the_end_of_some_prefix() -> None:
    steps = [drawn("uniform", 100, 0, step) for step in range(200)]
    assert {end for one in steps if one for end in one.ends} == set(range(1, 101))


def test_a_row_has_the_prefixes_that_add_a_token_and_always_its_whole() -> None:
    mask = torch.arange(9) < torch.tensor([9, 4, 1, 0])[:, None]
    found = prefixes_there(mask, (2, 4, 9))
    assert found.tolist() == [
        [True, True, True],
        [True, True, False],
        [True, False, False],
        [True, False, False],
    ]


def votes_and_targets() -> tuple[Tensor, Tensor, Tensor]:
    votes = torch.tensor([[[[-3.0], [1.0], [2.0]], [[0.5], [-1.0], [9.0]]]])
    there = torch.tensor([[True, True, True], [True, True, False]])
    return votes, torch.tensor([1, 0]), there


def test_uniform_prefixes_count_the_same_and_absent_ones_nothing() -> None:
    votes, targets, there = votes_and_targets()
    found = prefix_losses("binary", votes, targets, torch.ones(2), there, "uniform")

    first = F.softplus(-votes[0, 0, :, 0]).mean()
    second = F.softplus(votes[0, 1, :2, 0]).mean()
    torch.testing.assert_close(found, torch.stack([first, second])[None])


def test_softmax_prefixes_count_by_their_logits_and_their_weights_are_not_learnt() -> None:
    votes, targets, there = votes_and_targets()
    votes.requires_grad_()
    found = prefix_losses("binary", votes, targets, torch.ones(2), there, "softmax")

    shares = votes[0, 0, :, 0].detach().softmax(0)
    assert found[0, 0].item() == pytest.approx(
        (shares * F.softplus(-votes[0, 0, :, 0])).sum().item()
    )
    found[0, 0].backward()
    assert votes.grad is not None
    wanted = -shares * torch.sigmoid(-votes[0, 0, :, 0].detach())
    torch.testing.assert_close(votes.grad[0, 0, :, 0], wanted)
    assert not votes.grad[0, 1].any()


def test_labels_of_several_outputs_are_learnt_at_every_prefix() -> None:
    votes = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    there = torch.ones(2, 3, dtype=torch.bool)
    found = prefix_losses(
        "multiclass", votes, torch.tensor([3, 0]), torch.ones(4), there, "uniform"
    )
    for row, label in enumerate((3, 0)):
        wanted = -votes[0, row].log_softmax(1)[:, label].mean()
        torch.testing.assert_close(found[0, row], wanted)


def rows(num_rows: int, seed: int) -> Examples:
    """Twelve bytes below 50; the positive half has one byte above, among its first three."""
    tokens, targets = marked_rows(num_rows, seed, tokens=(8, 13), within=3)
    return Examples(LiveSource(FakeBackend(), tokens, LAYERS), targets)


def learnt(prefixes: Any, num_rows: int = 40, **more: Any) -> Trained:
    settings = TrainSettings(epochs=4, batch_size=8, prefixes=prefixes, **more)
    config = ProbeConfig(learning_rate=0.02)
    return train(rows(num_rows, 0), rows(40, 1), "binary", 2, [config], settings)[0]


def after(trained: Trained, tokens: int) -> float:
    """AUROC of the first tokens alone."""
    full = rows(60, 2)
    source = full.source
    assert isinstance(source, LiveSource)
    cut = LiveSource(source.backend, [row[:tokens] for row in source.token_ids], LAYERS)
    probs = evaluate_source(trained.network, cut, "binary").numpy()
    found = evaluate(probs, full.targets, "binary")["auroc"]
    assert found is not None
    return found


@pytest.mark.parametrize("prefixes", ["uniform", "softmax"])
def test_a_probe_that_learns_from_prefixes_tells_early_and_late(prefixes: str) -> None:
    trained = learnt(prefixes, num_rows=240)
    assert after(trained, 4) > 0.95
    assert after(trained, 12) > 0.95


def test_learning_from_prefixes_gives_other_weights() -> None:
    whole, uniform, softmax = (learnt(how).network for how in (None, "uniform", "softmax"))
    weights = [one.state_dict()["token_score"] for one in (whole, uniform, softmax)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


@pytest.mark.parametrize("prefixes", ["uniform", "softmax"])
def test_a_step_in_pieces_learns_the_same_prefixes(prefixes: str) -> None:
    whole, pieces = (learnt(prefixes, max_tokens=limit) for limit in (4096, 40))
    for one, other in zip(whole.network.parameters(), pieces.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_piece_keeps_the_ends_within_it_and_its_own() -> None:
    assert Prefixes((2, 5, 9), "uniform").within(9) == (2, 5, 9)
    assert Prefixes((2, 5, 9), "uniform").within(6) == (2, 5, 6)
    assert Prefixes((2, 5, 9), "uniform").within(1) == (1,)


def test_softmax_weights_of_several_labels_are_refused() -> None:
    settings = TrainSettings(prefixes="softmax")
    with pytest.raises(ConfigError, match="weigh them alike"):
        train(rows(8, 0), rows(8, 1), "multiclass", 2, [ProbeConfig()], settings)
