"""Rates, decays and seeds at the edge: refused, or a run that says that it has diverged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from marked_rows import marked_rows
from pillion.backends.fake import FakeBackend
from pillion.errors import ConfigError, StateError
from pillion.extract import LiveSource
from pillion.train import Examples, ProbeConfig, Trained, TrainSettings, train
from pillion.train.auto import folds
from pillion.train.settings import LEAST_RATE, MOST_DECAY, MOST_RATE, SEEDS

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_STEP = TrainSettings(epochs=1, batch_size=8)


def examples(seed: int = 0) -> Examples:
    rows, targets = marked_rows(8, seed, tokens=(1, 9))
    return Examples(LiveSource(FakeBackend(), rows, (0, 1)), targets)


def run(config: ProbeConfig, settings: TrainSettings = ONE_STEP) -> Trained:
    (found,) = train(examples(), examples(1), "binary", 2, [config], settings)
    return found


@pytest.mark.parametrize("rate", [5e-324, 1e-300, 1e-9, 11.0, 1e300, math.inf, math.nan])
def test_a_rate_moves_weights_and_not_out_of_sight(rate: float) -> None:
    """With 1e-300 nothing was learnt, and nothing said so; with 1e30 weights were as large."""
    with pytest.raises(ConfigError, match="learning_rate is"):
        ProbeConfig(learning_rate=rate)


@pytest.mark.parametrize("decay", [101.0, 1e300, math.inf, math.nan, -0.1])
def test_a_decay_takes_weights_away(decay: float) -> None:
    with pytest.raises(ConfigError, match="weight_decay is"):
        ProbeConfig(weight_decay=decay)


@pytest.mark.parametrize(
    "facts",
    [{"learning_rate": LEAST_RATE}, {"learning_rate": MOST_RATE}, {"weight_decay": MOST_DECAY}],
)
def test_the_ends_of_the_ranges_train(facts: dict[str, Any]) -> None:
    config = ProbeConfig(**facts)
    before = torch.cat([one.flatten() for one in run(ProbeConfig()).network.parameters()])
    after = torch.cat([one.flatten() for one in run(config).network.parameters()])
    assert bool(after.isfinite().all()) and not torch.equal(before, after)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("rate", [1e38, 1e300])
def test_weights_that_the_last_step_has_lost_are_told(rate: float, keep: Any, refit: bool) -> None:
    """No loss looks at them any more; the sentence was one of probabilities from 0 to 1."""
    config = ProbeConfig().model_copy(update={"learning_rate": rate})  # as a decay could make it
    settings = ONE_STEP.model_copy(update={"keep": keep, "refit": refit})
    with pytest.raises(StateError, match=r"seed 0.*not finite.*lower the learn"):
        run(config, settings)


def test_seeds_are_such_as_a_step_can_draw_with() -> None:
    """Beyond 64 bits it was a traceback of torch; below 0 one of numpy or scikit-learn."""
    for seed in (SEEDS, -SEEDS, 2**63, 10**30):
        with pytest.raises(ConfigError, match="seed is"):
            ProbeConfig(seed=seed)
    with pytest.raises(ConfigError, match="order_seed is -1"):
        TrainSettings(order_seed=-1)
    for seed in (SEEDS - 1, 1 - SEEDS, -1):
        assert run(ProbeConfig(seed=seed)).best_epoch == 1


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_folds_are_drawn_with_any_seed(seed: int) -> None:
    targets = np.array([0, 1] * 6)
    held = np.concatenate([held for _, held in folds(targets, seed)])
    assert sorted(held.tolist()) == list(range(12))
