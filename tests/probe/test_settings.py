"""Settings are strict: what does not fit is one clear `ConfigError` that says what would."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pillion.core import Shape
from pillion.errors import ConfigError
from pillion.probe import AGGREGATORS, aggregator, build, make_settings
from pillion.probe.gate import GateSettings

each_name = pytest.mark.parametrize("name", AGGREGATORS)


def refusal(name: str, **options: Any) -> str:
    """The message of the error that the options end in."""
    with pytest.raises(ConfigError) as caught:
        make_settings(name, **options)
    return str(caught.value)


@each_name
def test_every_name_has_settings_of_its_class_without_options(name: str) -> None:
    settings = make_settings(name)

    assert type(settings) is AGGREGATORS[name].settings
    assert build(name, Shape(2, 4, 1)).settings == settings


def test_the_papers_gate_is_one_bounded_head_on_raw_states() -> None:
    settings = make_settings("gate-paper")

    assert settings == GateSettings(num_heads=1, tanh=True, normalise=False)


def test_options_go_on_top_of_what_a_name_stands_for() -> None:
    settings = make_settings("gate-paper", num_heads=4)

    assert settings == GateSettings(num_heads=4, tanh=True, normalise=False)


def test_an_unknown_probe_names_the_nearest_one_and_lists_all() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gate-paper'") as caught:
        aggregator("gate-papr")
    assert all(name in str(caught.value) for name in AGGREGATORS)


def test_an_unknown_option_names_the_nearest_one_and_lists_all() -> None:
    message = refusal("gate", num_head=4)

    assert "'num_head'" in message
    assert "Did you mean 'num_heads'?" in message
    assert all(option in message for option in GateSettings.model_fields)


@each_name
def test_no_probe_takes_an_option_it_does_not_know(name: str) -> None:
    assert "'window_tokens'" in refusal(name, window_tokens=3)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gate", {"num_heads": 0}, ["num_heads", "greater than or equal to 1"]),
        ("gate", {"num_heads": 2.5}, ["num_heads", "integer"]),
        ("gate", {"num_heads": "many"}, ["num_heads", "integer"]),
        ("gate-mlp", {"dropout": 1.0}, ["dropout", "less than 1"]),
        ("gate-mlp", {"dropout": float("nan")}, ["dropout", "finite number"]),
        ("gate-mlp", {"dropout": -0.1}, ["dropout", "greater than or equal to 0"]),
        ("gate", {"tanh": "perhaps"}, ["tanh", "boolean"]),
        ("mha", {"width": 0}, ["width", "greater than or equal to 1"]),
        ("mha", {"width": 12, "num_heads": 8}, ["num_heads=8 does not divide width=12"]),
        ("multimax", {"slope": True}, ["slope is for tokens='attention'"]),
        ("rolling", {"window": 1}, ["window", "greater than or equal to 2"]),
        ("attention", {"tokens": "mean"}, ["tokens", "'max', 'attention' or 'rolling'"]),
    ],
)
def test_a_bad_value_is_one_sentence_with_the_probe_the_option_and_the_reason(
    name: str, options: dict[str, Any], words: list[str]
) -> None:
    message = refusal(name, **options)

    assert repr(name) in message
    assert all(word in message for word in words)
    assert "\n" not in message
    assert message.endswith(".")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_settings("gate").num_heads = 3  # type: ignore[attr-defined]


@each_name
def test_settings_survive_being_written_down(name: str) -> None:
    settings = make_settings(name)

    assert type(settings).model_validate_json(settings.model_dump_json()) == settings
