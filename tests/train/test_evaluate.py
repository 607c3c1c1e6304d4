"""What a trained network is asked, and how its threshold is chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pillion.backends.fake import FakeBackend
from pillion.core import Shape
from pillion.extract import LiveSource
from pillion.probe import build
from pillion.probe.task import Task, probabilities
from pillion.train import choose_thresholds, evaluate_networks, evaluate_source
from pillion.train.evaluate import score, validate

ROWS = [[1] * length for length in (3, 9, 1, 4, 7, 2, 2)]


def test_every_row_gets_the_probabilities_it_has_alone() -> None:
    source = LiveSource(FakeBackend(), ROWS, (0, 1))
    network = build("gate", Shape(2, 16, 3)).eval()
    probs = evaluate_source(network, source, "multiclass", max_tokens=8)
    for row_id in range(len(ROWS)):
        with torch.no_grad():
            alone = probabilities("multiclass", network(*source.read_batch([row_id])))
        torch.testing.assert_close(probs[row_id], alone[0])


def test_states_are_read_once_for_all_networks() -> None:
    source = LiveSource(FakeBackend(), ROWS, (0, 1))
    networks = [build(name, Shape(2, 16, 1)) for name in ("gate", "pooling", "mha")]
    done: list[int] = []
    found = evaluate_networks(
        networks, source, "binary", 8, lambda stage, d, total, metric=None: done.append(d)
    )
    assert done[-1] == sum(map(len, ROWS))
    for network, probs in zip(networks, found, strict=True):
        torch.testing.assert_close(probs, evaluate_source(network, source, "binary"))


def test_thresholds_are_one_an_output_and_none_for_multi_class() -> None:
    # A curve through four rows alone would be flat.
    probs = torch.tensor([[0.1, 0.9], [0.2, 0.6], [0.3, 0.2], [0.8, 0.1]]).repeat(50, 1)
    assert choose_thresholds("multiclass", probs, np.tile([0, 1, 1, 0], 50)) is None
    binary = choose_thresholds("binary", probs[:, :1], np.tile([0, 0, 1, 1], 50))
    assert binary is not None and 0.2 < binary[0] < 0.8
    both = choose_thresholds(
        "multilabel", probs, np.tile([[0, 1], [0, 0], [1, 0], [1, 0]], (50, 1))
    )
    assert both is not None and both[0] == pytest.approx(binary[0])
    assert 0.2 < both[1] < 0.9


def test_rows_that_tell_no_threshold_leave_one_half() -> None:
    """Too few of a side; or a curve that never falls: what is said is the wrong way round."""
    probs = torch.tensor([[0.1], [0.2], [0.8], [0.9]]).repeat(25, 1)
    assert choose_thresholds("binary", probs, np.zeros(100, dtype=np.int64)) is None
    assert choose_thresholds("binary", probs, np.tile([1, 1, 0, 0], 25)) == (0.5,)


def test_a_threshold_is_chosen_by_fifty_rows_of_either_side() -> None:
    probs = torch.tensor([[0.1], [0.2], [0.6], [0.9]]).repeat(25, 1)
    targets = np.tile([0, 0, 1, 1], 25)
    assert choose_thresholds("binary", probs, targets) is not None
    assert choose_thresholds("binary", probs[1:], targets[1:]) is None
    assert choose_thresholds("binary", probs, targets, times=2) is None


def test_the_log_loss_is_that_of_the_right_label() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    metrics = validate("multiclass", probs, torch.tensor([0, 2]))
    wanted = -(np.log(0.5) + np.log(0.1)) / 2
    assert metrics["log_loss"] == pytest.approx(wanted)


def test_rows_of_a_single_label_are_scored_by_the_log_loss() -> None:
    metrics = validate("binary", torch.tensor([[0.9], [0.8]]), torch.tensor([1, 1]))
    assert score(metrics) == pytest.approx((np.log(0.9) + np.log(0.8)) / 2)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_probe_that_is_too_sure_scores_as_well_as_one_that_is_not(task: Task) -> None:
    """How well it tells labels apart counts, which scaled logits do as well."""
    outputs = {"binary": 1, "multiclass": 4, "multilabel": 3}[task]
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(200, outputs, generator=random)
    noise = logits + torch.randn(200, outputs, generator=random)
    targets = noise.argmax(1) if task == "multiclass" else (noise > 0).float().squeeze(1)

    def measured(scale: float, said: torch.Tensor = logits) -> dict[str, float | None]:
        return validate(task, probabilities(task, said * scale), targets)

    sure, surer, other = measured(2.0), measured(5.0), measured(5.0, logits + noise.flip(0))
    assert score(surer) == pytest.approx(score(sure), rel=2e-3)
    assert surer["log_loss"] != pytest.approx(sure["log_loss"], rel=0.1)
    assert score(other) < 1.1 * score(sure)
    assert score(measured(0.3)) < 1.01 * score(sure)


def test_of_probes_that_tell_all_rows_apart_the_surer_one_scores_higher() -> None:
    targets = torch.tensor([0, 1] * 20)
    scores = [
        score(
            validate("binary", torch.sigmoid(torch.tensor([[-1.0], [1.0]] * 20) * scale), targets)
        )
        for scale in (0.5, 1.0, 3.0)
    ]
    assert scores == sorted(scores) and len(set(scores)) == 3


def test_how_sure_a_probe_of_probabilities_is_counts() -> None:
    goals, targets = torch.tensor([0.7, 0.3] * 20), torch.tensor([1, 0] * 20)
    near, surer = torch.tensor([[0.68], [0.32]] * 20), torch.tensor([[0.97], [0.03]] * 20)
    scores = [score(validate("binary", said, targets, goals)) for said in (near, surer)]
    assert scores[0] > scores[1]


def test_a_refinement_leaves_out_what_was_not_judged() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, float("nan")]])
    probs = torch.tensor([[0.9, 0.2], [0.3, 0.7], [0.6, 0.5]])
    changed = probs.clone()
    changed[2, 1] = 0.001
    assert score(validate("multilabel", probs, targets)) == score(
        validate("multilabel", changed, targets)
    )


def test_thresholds_and_the_score_of_an_epoch_are_of_what_was_judged() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 2)) < 0.4).astype(np.float32)
    probs = torch.tensor(1 / (1 + np.exp(1 - 2 * targets - rng.normal(size=(400, 2)))))
    holes = targets.copy()
    holes[:200, 1] = np.nan
    lines = choose_thresholds("multilabel", probs, holes)
    alone = choose_thresholds("multilabel", probs[200:], targets[200:])
    assert lines is not None and alone is not None and lines[1] == alone[1]
    judged = ~np.isnan(holes)
    said = probs.double().numpy()[judged]
    wanted = -np.log(np.where(holes[judged] > 0, said, 1 - said)).mean()
    found = validate("multilabel", probs.float(), torch.tensor(holes))["log_loss"]
    assert found == pytest.approx(wanted, rel=1e-5)
