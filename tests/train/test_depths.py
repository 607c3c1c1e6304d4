"""What a probe learns of its depths, and which depths are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from marked_rows import marked_rows
from pillion.backends.fake import FakeBackend
from pillion.errors import ConfigError
from pillion.extract import LiveSource
from pillion.probe.task import loss
from pillion.train import Examples, ProbeConfig, TrainSettings, train
from pillion.train.depths import check_depths, counts_of, depth_losses


def test_depths_are_counted_in_the_layers_that_are_read() -> None:
    assert counts_of((2, 9), (0, 2, 5, 9, 11)) == (2, 4, 5)
    assert counts_of((), (0, 1)) == ()


@pytest.mark.parametrize("depths", [(3,), (11,), (9, 2), (2, 2), (12,)])
def test_depths_that_are_no_layers_below_the_last_or_do_not_rise_are_refused(
    depths: tuple[int, ...],
) -> None:
    with pytest.raises(ConfigError, match=r"rising and below its last \(11\)"):
        counts_of(depths, (0, 2, 5, 9, 11))


def test_a_probe_without_read_outs_at_depths_is_refused_before_it_is_trained() -> None:
    check_depths("gate-paper")
    with pytest.raises(
        ConfigError, match="Probe 'pooling' has no read-outs at depths; train a gate"
    ):
        check_depths("pooling")


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_row_loses_at_each_depth_by_its_layers(task: Any) -> None:
    random = torch.Generator().manual_seed(0)
    outputs = 1 if task == "binary" else 3
    votes = torch.randn(2, 5, 3, outputs, generator=random)
    targets = torch.arange(5) % (2 if task == "binary" else 3)
    if task == "multilabel":
        targets = torch.randint(2, (5, 3), generator=random)
    weights = torch.tensor([0.5, 2.0] if task == "binary" else [0.5, 2.0, 1.0])
    found = depth_losses(task, votes, targets, weights, (1, 3, 6))
    each = [[loss(task, votes[m, :, d], targets, weights) for d in range(3)] for m in range(2)]
    wanted = [(0.1 * a + 0.3 * b + 0.6 * c) for a, b, c in each]
    torch.testing.assert_close(found, torch.stack(wanted))


def examples(num_rows: int, seed: int) -> Examples:
    """Rows of bytes; one of them tells the label, and stands in half of the rows."""
    rows, targets = marked_rows(num_rows, seed, tokens=(2, 9), marks=(100, 101))
    return Examples(LiveSource(FakeBackend(), rows, (0, 1, 2, 3)), targets)


def test_a_probe_with_depths_is_right_at_each_of_them_and_one_without_need_not_be() -> None:
    training, held = examples(160, 0), examples(80, 1)
    config = ProbeConfig(settings={"num_heads": 2}, learning_rate=0.02)
    right: dict[tuple[int, ...], float] = {}
    for depths in ((), (0, 2)):
        settings = TrainSettings(epochs=4, batch_size=8, depths=depths)
        (trained,) = train(training, held, "binary", 2, [config], settings)
        hidden, mask = held.source.read_batch(range(80), _workspace())
        with torch.no_grad():
            votes = trained.network.depth_votes(hidden.float(), mask, [1, 3, 4]).mean(0)[..., 0]
        targets = torch.as_tensor(held.targets, dtype=torch.float32)[:, None].expand(-1, 3)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            votes, targets, reduction="none"
        ).mean(0)
        right[depths] = float(losses[0])
        if depths:
            assert (((votes > 0) == (targets > 0)).float().mean(0) > 0.9).all()
    assert right[(0, 2)] < right[()]


def _workspace() -> Any:
    from pillion.cache import Workspace

    return Workspace()
