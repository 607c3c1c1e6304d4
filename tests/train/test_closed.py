"""Probes in closed form say what ridge regression on pooled states says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from pillion.backends.fake import FakeBackend
from pillion.extract import LiveSource, pooled_source
from pillion.metrics import log_loss
from pillion.probe.task import Task, num_outputs, probabilities
from pillion.train import evaluate_networks
from pillion.train.closed import STEEPEST, logit_scale, solve

LAYERS = (0, 1, 3)
TASKS: tuple[Task, ...] = ("binary", "multiclass", "multilabel")
each_task = pytest.mark.parametrize("task", TASKS)


def rows(count: int = 30) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 200, size=random.integers(1, 9)).tolist() for _ in range(count)]


def targets(task: Task, tokens: list[list[int]]) -> np.ndarray:
    first = np.array([row[0] for row in tokens])
    if task == "multilabel":
        return np.stack([first > 120, first % 2, first < 60], axis=1).astype(np.float32)
    return first % (2 if task == "binary" else 3)


@each_task
def test_the_probe_is_ridge_regression_on_pooled_states(task: Task) -> None:
    tokens = rows()
    source, wanted = LiveSource(FakeBackend(), tokens, LAYERS), targets(task, tokens)
    states = pooled_source(source, "mean-rms")
    found = solve(states, wanted, task, num_outputs(task, 3 if task != "binary" else 2))

    wide = states.double().transpose(0, 1).flatten(1).numpy()
    features = (wide - wide.mean(0)) / wide.std(0) / np.sqrt(wide.shape[1])
    signs = (np.eye(3)[wanted] if task == "multiclass" else wanted.reshape(len(wanted), -1)) * 2 - 1
    model = Ridge(alpha=found.penalty * (features**2).sum() / len(features)).fit(features, signs)
    scores = model.predict(features).reshape(signs.shape)
    with torch.no_grad():
        logits = found.network(*source.read_batch(range(len(tokens)))).double().numpy()
    for said, score in zip(logits.T, scores.T, strict=True):
        scale, offset = np.polyfit(score, said, 1)
        assert scale > 0
        np.testing.assert_allclose(said, scale * score + offset, atol=2e-4)


@each_task
def test_a_row_left_out_is_said_what_the_others_say_of_it(task: Task) -> None:
    tokens = rows()
    wanted = targets(task, tokens)
    states = pooled_source(LiveSource(FakeBackend(), tokens, LAYERS), "mean-rms")
    found = solve(states, wanted, task, num_outputs(task, 3 if task != "binary" else 2))
    wide = states.double().transpose(0, 1).flatten(1).numpy()
    features = (wide - wide.mean(0)) / wide.std(0) / np.sqrt(wide.shape[1])
    signs = (np.eye(3)[wanted] if task == "multiclass" else wanted.reshape(len(wanted), -1)) * 2 - 1
    alpha = found.penalty * (features**2).sum() / len(features)
    left_out = np.empty(signs.shape)
    for row in range(len(signs)):
        others = np.arange(len(signs)) != row
        model = Ridge(alpha=alpha).fit(features[others], signs[others])
        left_out[row] = model.predict(features[[row]])
    for said, score in zip(found.left_out.double().numpy().T, left_out.T, strict=True):
        scale, offset = np.polyfit(score, said, 1)
        np.testing.assert_allclose(said, scale * score + offset, atol=2e-3)


def test_scores_become_logits_under_which_left_out_rows_are_likelier() -> None:
    random = np.random.default_rng(0)
    ids = random.integers(0, 3, 200)
    scores = torch.from_numpy(random.normal(0, 0.4, (200, 3)) + np.eye(3)[ids])
    scale, offset = logit_scale(scores, ids, "multiclass")
    assert len(set(scale.tolist())) == 1 and not offset.any()

    def loss(factor: float) -> float:
        return log_loss((scores * scale * factor).softmax(1).numpy(), ids, "multiclass")

    assert loss(1) < min(loss(0.8), loss(1.25), loss(1 / float(scale[0])))


def test_a_score_that_lies_beside_its_label_is_moved_and_one_against_it_says_nothing() -> None:
    wanted = np.arange(40) % 4 == 0
    aside = torch.from_numpy(wanted * 1.0 - 2)[:, None] + torch.linspace(-0.6, 0.6, 40)[:, None]
    scale, offset = logit_scale(aside.double(), wanted.astype(np.int64), "binary")
    said = probabilities("binary", aside * scale + offset)[:, 0]
    assert abs(float(said.mean()) - 0.25) < 0.05
    assert float(said[wanted].mean()) > 0.6 > 0.2 > float(said[~wanted].mean())
    against, _ = logit_scale(-aside.double(), wanted.astype(np.int64), "binary")
    assert float(against) == 0


@each_task
def test_rows_that_are_told_apart_without_a_fault_give_finite_weights(task: Task) -> None:
    tokens = [[5], [5, 5], [90], [90, 90], [160], [160, 160]]
    ids = np.array([0, 0, 1, 1, 2, 2])
    wanted = {
        "binary": (ids > 0).astype(np.int64),
        "multiclass": ids,
        "multilabel": np.eye(3, dtype=np.float32)[ids],
    }[task]
    source = LiveSource(FakeBackend(), tokens, LAYERS)
    found = solve(
        pooled_source(source, "mean-rms"),
        wanted,
        task,
        num_outputs(task, 3 if task != "binary" else 2),
    )
    assert all(bool(torch.isfinite(p).all()) for p in found.network.parameters())
    assert found.left_out.abs().max() < 10 * STEEPEST
    (probs,) = evaluate_networks([found.network], source, task)
    if task == "multiclass":
        assert probs.argmax(1).tolist() == ids.tolist()
