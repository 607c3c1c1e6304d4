"""Layers as people type them."""

from __future__ import annotations

import pytest

from pillion.cli.layers import parse_layers
from pillion.errors import ConfigError


def test_numbers_ranges_and_both_are_layers_in_ascending_order() -> None:
    assert parse_layers(None, 30) is None
    assert parse_layers("3", 30) == (3,)
    assert parse_layers("0-3", 30) == (0, 1, 2, 3)
    assert parse_layers(" 8, 4-5 ,0,4", 30) == (0, 4, 5, 8)
    assert parse_layers("30-30", 30) == (30,)


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "-1", "1-", "-", "1-2-3", "1.5", "²", "31", "0-31", "3-1", "1_0"]
)
def test_anything_else_is_refused_in_its_own_words(text: str) -> None:
    with pytest.raises(ConfigError, match="--layers has"):
        parse_layers(text, 30)
