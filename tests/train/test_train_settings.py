"""What a training run accepts."""

from __future__ import annotations

from typing import Any

import pytest

from pillion.errors import ConfigError
from pillion.probe import AGGREGATORS
from pillion.train import ProbeConfig, TrainSettings


@pytest.mark.parametrize(
    "options",
    [{"epochs": 1001}, {"epochs": 0}, {"batch_size": 0}, {"warmup": 1.0}, {"epoch": 3}],
)
def test_settings_out_of_range_or_unknown_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrainSettings(**options)


@pytest.mark.parametrize(
    ("num_rows", "num_held", "epochs", "keep", "longest"),
    [
        (16_000, 2_000, 4, "best", 32),
        (800, 200, 4, "best", 32),
        (400, 50, 8, "best", 32),
        (400, 49, 8, "last", None),
        (36, 12, 89, "last", None),
    ],
)
def test_few_rows_are_gone_over_more_often_and_choose_no_epoch(
    num_rows: int, num_held: int, epochs: int, keep: str, longest: int | None
) -> None:
    settled = TrainSettings().for_rows(num_rows, num_held)
    assert (settled.epochs, settled.patience, settled.keep) == (epochs, None, keep)
    assert settled.longest == longest


def test_the_last_epoch_asks_for_no_more_of_them() -> None:
    settled = TrainSettings(keep="last").for_rows(16_000, 2_000)
    assert (settled.keep, settled.longest) == ("last", None)


def test_what_is_given_is_not_settled_otherwise() -> None:
    given = TrainSettings(epochs=2, batch_size=5, patience=1)
    settled = given.for_rows(36, 12)
    assert (settled.epochs, settled.batch_size, settled.patience) == (2, 5, 1)
    assert settled.keep == "best"
    assert settled.for_rows(16_000, 2_000) == settled


def test_an_unknown_probe_or_setting_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gate'"):
        ProbeConfig(probe="gat")
    with pytest.raises(ConfigError, match="Did you mean 'num_heads'"):
        ProbeConfig(settings={"num_head": 2})


def test_a_probe_has_a_learning_rate_of_its_own() -> None:
    assert ProbeConfig(probe="mha").rate == AGGREGATORS["mha"].learning_rate
    assert ProbeConfig(probe="mha", learning_rate=0.5).rate == 0.5
