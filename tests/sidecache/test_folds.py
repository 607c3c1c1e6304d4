"""Running folds of many rows equal folds of each alone, for every aggregator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pillion.core import Shape
from pillion.probe import AGGREGATORS, build, make_settings
from pillion.sidecache.folds import Folds, reduce_rows
from tiny_models import SMALL

SHAPE = Shape(num_layers=3, dim=16, num_outputs=2)


def fold_of(name: str) -> tuple[Any, int]:
    network = build(name, SHAPE, make_settings(name, **SMALL.get(name, {}))).eval()
    return network.fold_class([network]), network.tap().num_values


def seen(rows: int, tokens: int) -> torch.Tensor:
    return torch.ones(rows, tokens, dtype=torch.bool)


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
def test_rows_merged_pair_by_pair_equal_the_whole(
    name: str, count: int, generator: torch.Generator
) -> None:
    fold, taps = fold_of(name)
    values = torch.randn(3, 1, 4 * count, taps, generator=generator)
    pages = fold.summarise(values[:, 0].unflatten(1, (count, 4)), seen(count, 4))

    whole = fold.finish(fold.summarise(values, seen(1, 4 * count)))
    assert torch.allclose(fold.finish(reduce_rows(fold, pages)), whole, atol=1e-5)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_rows_that_grow_in_turn_equal_each_alone(name: str, generator: torch.Generator) -> None:
    fold, taps = fold_of(name)
    values = torch.randn(3, 4, 9, taps, generator=generator)
    folds = Folds(fold, values[:, :1, :1])
    folds.make_room(2)
    folds.make_room(6)  # rows that are there stay
    places, read = [5, 0, 2, 3], [0] * 4
    for row in places:
        folds.reset(row)
    folds.add(places[1], fold.summarise(values[:, 1:2, :4], seen(1, 4)))
    read[1] = 4
    for some in ([0, 1, 2], [2, 0], [3], [1, 0, 3, 2], [0, 1, 2, 3], [3, 0]):
        new = torch.stack([values[:, i, read[i]] for i in some], 1)[:, :, None]
        logits = folds.add_each([places[i] for i in some], fold.summarise(new, seen(len(some), 1)))
        for i, got in zip(some, logits, strict=True):
            read[i] += 1
            alone = fold.finish(fold.summarise(values[:, i : i + 1, : read[i]], seen(1, read[i])))
            assert torch.allclose(got, alone[0], atol=1e-5)
    again = folds.logits([places[i] for i in (2, 3)])
    for i, got in zip((2, 3), again, strict=True):
        alone = fold.finish(fold.summarise(values[:, i : i + 1, : read[i]], seen(1, read[i])))
        assert torch.allclose(got, alone[0], atol=1e-5)
    assert folds.held_bytes > 0


def test_a_row_that_was_reset_begins_anew(generator: torch.Generator) -> None:
    fold, taps = fold_of("gate")
    values = torch.randn(3, 1, 6, taps, generator=generator)
    folds = Folds(fold, values[:, :, :1])
    folds.make_room(1)
    folds.put(0, fold.summarise(values[:, :, :3], seen(1, 3)))
    folds.reset(0)
    logits = folds.add_each([0], fold.summarise(values[:, :, 3:4], seen(1, 1)))
    assert torch.allclose(logits, fold.finish(fold.summarise(values[:, :, 3:4], seen(1, 1))))


@pytest.mark.parametrize("name", AGGREGATORS)
def test_what_is_held_is_what_the_rows_states_take(name: str, generator: torch.Generator) -> None:
    fold, taps = fold_of(name)
    values = torch.randn(3, 1, 5, taps, generator=generator)
    state = fold.summarise(values, seen(1, 5))
    one = sum(tensor.nbytes for tensor in state.values())
    folds = Folds(fold, values[:, :, :1])
    assert folds.held_bytes == 0
    folds.make_room(7)
    folds.make_room(5)  # there is more already
    for row in (0, 3, 6):
        folds.put(row, state)
    assert folds.held_bytes == (7 if folds.alike else 3) * one
    folds.reset(3)
    assert folds.held_bytes == (7 if folds.alike else 2) * one
