"""Records are values: once made they do not change, whatever holds them."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

PARTS = (
    *(f"pillion.{name}" for name in ("core", "probe", "sidecache", "metrics", "evals", "policies")),
    *("pillion.serve.answering", "pillion_bench", "pillion_bench.baselines", "pillion_bench.real"),
)
CHANGING = {"DecodeBatch", "TrackedRequest"}
"""Records of something that goes on."""
ELSEWHERE = {"pillion.sidecache.gate_kernel"}
"""What can be imported only where its compiler is installed."""


def records(name: str) -> Iterator[Any]:
    """The dataclasses of a part, in all of its modules."""
    part = importlib.import_module(name)
    below = pkgutil.iter_modules(getattr(part, "__path__", []), f"{part.__name__}.")
    names = [one.name for one in below if one.name not in ELSEWHERE]
    for module in (part, *map(importlib.import_module, names)):
        for value in vars(module).values():
            if (
                dataclasses.is_dataclass(value)
                and getattr(value, "__module__", "") == module.__name__
            ):
                yield value


@pytest.mark.parametrize("name", PARTS)
def test_records_are_frozen_but_those_of_something_that_goes_on(name: str) -> None:
    found = list(records(name))
    changing = {one.__name__ for one in found if not one.__dataclass_params__.frozen}
    assert changing <= CHANGING
