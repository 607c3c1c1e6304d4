"""What a training run accepts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pillion.errors import ConfigError
from pillion.probe import AGGREGATORS
from pillion.train import ProbeConfig, TrainSettings


@pytest.mark.parametrize(
    "options",
    [{"epochs": 101}, {"epochs": 0}, {"batch_size": 0}, {"warmup": 1.0}, {"epoch": 3}],
)
def test_settings_out_of_range_or_unknown_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainSettings(**options)


def test_a_run_without_settings_has_defaults_that_fit() -> None:
    assert TrainSettings().epochs <= 100


def test_an_unknown_probe_or_setting_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gate'"):
        ProbeConfig(probe="gat")
    with pytest.raises(ConfigError, match="Did you mean 'num_heads'"):
        ProbeConfig(settings={"num_head": 2})


def test_a_probe_has_a_learning_rate_of_its_own() -> None:
    assert ProbeConfig(probe="mha").rate == AGGREGATORS["mha"].learning_rate
    assert ProbeConfig(probe="mha", learning_rate=0.5).rate == 0.5
