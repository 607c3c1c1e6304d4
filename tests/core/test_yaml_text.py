"""YAML whose words are words."""

from __future__ import annotations

from typing import Any

import pytest

from pillion.core.yaml_text import load_yaml


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("on: no", {"on": "no"}),
        ("[yes, No, OFF, y, n]", ["yes", "No", "OFF", "y", "n"]),
        ("[true, False, 1, 1.5, null, 'true']", [True, False, 1, 1.5, None, "true"]),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_only_true_and_false_are_truth_values(text: str, wanted: Any) -> None:
    assert load_yaml(text) == wanted


@pytest.mark.parametrize(
    "text", ["a: [", "a: 1\nb: {c: 1, c: 2}", "!!python/object:os.system {}", "[" * 5000]
)
def test_what_is_no_yaml_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        load_yaml(text)
