"""Rows that begin alike run together, once for what they have in common."""

from __future__ import annotations

import random
from itertools import chain, pairwise

from pillion.extract.beginnings import MAX_COPIED_TOKENS, batches_by_beginning, by_beginning
from pillion.extract.collector import shared_tokens

LONG, OTHER = list(range(100, 500)), list(range(600, 900))


def mixed(seed: int) -> list[list[int]]:
    """Rows behind two long beginnings and behind none, shuffled."""
    draw = random.Random(seed)
    rows = [
        [1, 2, *start, *(draw.randrange(50) for _ in range(draw.randrange(3, 40)))]
        for start in (LONG, OTHER, [])
        for _ in range(20)
    ]
    draw.shuffle(rows)
    return rows


def work(rows: list[list[int]], batch: list[int]) -> int:
    """Padded tokens that a batch runs, its common beginning once."""
    shared = shared_tokens([rows[row] for row in batch])
    return shared + sum([max(len(rows[row]) for row in batch) - shared] * len(batch))


def test_every_row_runs_once() -> None:
    rows = mixed(0)
    for max_tokens in (1, 100, 2048):
        batches = batches_by_beginning(rows, max_tokens)
        assert sorted(chain(*batches)) == list(range(len(rows)))


def test_a_batch_holds_rows_of_one_beginning() -> None:
    rows = mixed(1)
    for batch in batches_by_beginning(rows, 2048):
        beginnings = {(len(rows[row]) > 2 and rows[row][2] in (100, 600)) for row in batch}
        assert len(beginnings) == 1
        assert shared_tokens([rows[row] for row in batch]) >= (300 if beginnings == {True} else 2)


def test_a_common_beginning_costs_little() -> None:
    rows = mixed(2)
    alone = sum(len(row) - (2 + len(LONG)) for row in rows if row[2:3] == [100])
    batches = [b for b in batches_by_beginning(rows, 2048) if rows[b[0]][2:3] == [100]]
    assert sum(work(rows, batch) for batch in batches) < 2 * (len(LONG) + 2) + 2 * alone


def test_rows_without_more_in_common_are_batched_by_length() -> None:
    rows = [[7] * 30 + [token] * length for token, length in enumerate([9, 3, 5, 4, 8, 7], 50)]
    (batch,) = batches_by_beginning(rows, 2048)
    assert [len(rows[row]) for row in batch] == sorted(map(len, rows), reverse=True)


def test_a_beginning_within_a_beginning_is_found() -> None:
    """Behind one system prompt some rows share earlier turns too."""
    rows = [[*LONG, *OTHER, n] for n in range(8)] + [[*LONG, 50 + n, 3] for n in range(8)]
    batches = batches_by_beginning(rows, 2048)
    assert sorted(shared_tokens([rows[row] for row in batch]) for batch in batches) == [400, 700]


def test_a_long_beginning_is_not_copied_for_too_many_rows() -> None:
    rows = [[*range(3000), n] for n in range(12)]
    assert max(map(len, batches_by_beginning(rows, 2048))) <= MAX_COPIED_TOKENS // 3000


def test_a_beginning_that_two_rows_share_parts_nothing() -> None:
    rows = [[1, *LONG, 5], [1, *LONG, 6], [1, 3], [1, 4], [1, 5]]
    assert len(batches_by_beginning(rows, 4096)) == 1


def test_equal_rows_and_single_tokens_are_rows_too() -> None:
    rows = [[5], [5], *([[*LONG]] * 6)]
    assert sorted(chain(*batches_by_beginning(rows, 2048))) == list(range(8))


def test_neighbours_in_the_order_begin_alike() -> None:
    rows = mixed(3)
    firsts = [rows[row][2:3] for row in by_beginning(rows)]
    changes = sum(one != two for one, two in pairwise(firsts))
    assert changes == len(set(map(tuple, firsts))) - 1
