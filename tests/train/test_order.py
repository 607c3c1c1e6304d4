"""The order of training rows, and how a long step is cut."""

from __future__ import annotations

import numpy as np
import pytest

from pillion.train.learner import learning_rate
from pillion.train.order import epoch_batches, parts

LENGTHS = np.random.default_rng(0).integers(1, 60, size=5000).tolist()


def test_every_row_comes_once_an_epoch() -> None:
    batches = epoch_batches(LENGTHS, 32, seed=0, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(5000))
    assert len(batches) == 157


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [epoch_batches(LENGTHS, 32, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert orders[0] == epoch_batches(LENGTHS, 32, 0, 0)
    assert all(orders[0] != other for other in orders[1:])


def test_rows_of_a_batch_are_of_similar_length() -> None:
    batches = epoch_batches(LENGTHS, 32, seed=0, epoch=0)
    padded = sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(LENGTHS)


def test_long_batches_are_not_all_at_one_end() -> None:
    batches = epoch_batches(LENGTHS, 32, seed=0, epoch=0)
    longest = [max(LENGTHS[row] for row in batch) for batch in batches]
    halves = np.mean(longest[:78]), np.mean(longest[78:])
    assert abs(halves[0] - halves[1]) < 10


def test_a_step_that_fits_is_not_cut() -> None:
    assert parts([3, 1, 2], [9, 5, 5, 5], max_tokens=15) == [[3, 1, 2]]


def test_a_long_step_is_cut_into_pieces_that_fit() -> None:
    pieces = parts([0, 1, 2, 3], [9, 5, 5, 30], max_tokens=12)
    assert sorted(row for piece in pieces for row in piece) == [0, 1, 2, 3]
    assert [3] in pieces
    assert max(len(piece) for piece in pieces) == 2


def test_the_learning_rate_rises_and_then_falls_to_nothing() -> None:
    shares = [learning_rate(step, 100, 0.1) for step in range(100)]
    assert shares[9] == 1.0
    assert shares[0] == pytest.approx(0.1)
    assert sorted(shares[9:], reverse=True) == shares[9:]
    assert shares[-1] < 1e-3
