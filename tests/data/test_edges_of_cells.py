"""Cells whose numbers or characters no file of JSON should hold are unusable rows, not crashes."""

from __future__ import annotations

import pytest

from pillion.data.cells import UnusableCell, text_of
from pillion.data.label_cells import cell_fault, soft_fault
from pillion.errors import ConfigError
from pillion.runtime import Sampling


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), -1e-9])
def test_a_probability_is_from_0_to_1_however_large_the_number(value: float) -> None:
    """A whole number beyond floats was a traceback."""
    fault = soft_fault({"fine": value, "poor": 0.5})
    if value != value:
        assert fault is None  # an empty cell of a table
    else:
        assert fault is not None and "no probability" in fault.what


@pytest.mark.parametrize("cell", ["\ud83d", ["fine", "\ud83d"], {"\ud83d": 1, "poor": 0}], ids=repr)
def test_half_a_character_is_no_name(cell: object) -> None:
    """The card could not be written after all the training."""
    faults = [cell_fault(cell)] + ([soft_fault(cell)] if isinstance(cell, dict) else [])
    for fault in faults:
        assert fault is not None and fault.reason.startswith("a label with half a surrogate pair")


def nested(levels: int) -> list[object]:
    found: list[object] = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize("arguments", [{"city": "\ud800"}, {"\udfff": 1}, {"a": nested(5000)}])
def test_calls_that_no_template_can_write_make_a_row_unusable(arguments: object) -> None:
    """Only contents were looked at: the tokenizer failed on the calls beside them."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    turns = [
        {"role": "user", "content": "Warm?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    assert isinstance(text_of("messages", [turns]), UnusableCell)


def test_calls_of_plain_words_are_a_rows_own() -> None:
    call = {"function": {"name": "f", "arguments": {"city": "Köln", 1: None}}}
    turns = [
        {"role": "user", "content": "Warm?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    assert not isinstance(text_of("messages", [turns]), UnusableCell)


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**30])
def test_a_seed_of_draws_fits_into_64_bits(seed: int) -> None:
    """Torch's own words were of an overflow, in the middle of an answer."""
    with pytest.raises(ConfigError, match="64 bits"):
        Sampling(seed=seed)
    assert Sampling(seed=2**63 - 1).seed
