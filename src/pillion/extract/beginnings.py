"""Which rows run together where many begin alike, as rows behind the same system prompt do.

Promises every row once. Pure arithmetic: knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pillion.core.batching import batches_by_length

MIN_ROWS = 3
"""Rows that run apart for the sake of their beginning; fewer only make batches small."""

MIN_MORE_TOKENS = 32
"""Tokens that they must have in common beyond what they have in common with the others."""

MAX_COPIED_TOKENS = 8192
"""Tokens of a beginning, times the rows that its KV cache is repeated for: memory, and time."""

Rows = Sequence[Sequence[int]]


def by_beginning(rows: Rows) -> list[int]:
    """Row ids in an order in which rows that begin alike are neighbours."""
    keys = [tuple(row) for row in rows]
    return sorted(range(len(keys)), key=keys.__getitem__)


def batches_by_beginning(rows: Rows, max_tokens: int, max_rows: int = 256) -> list[list[int]]:
    """Row ids in batches of which each has a beginning in common, longest rows first.

    Args:
        rows: token ids, each row with one or more.
        max_tokens: padded tokens a batch, without its common beginning but for once.
        max_rows: rows a batch.
    """
    order = by_beginning(rows)
    batches: list[list[int]] = []
    for group in _groups(rows, order, _common(rows, order)):
        shared = _common(rows, group)
        tails = [len(rows[row]) - shared for row in group]
        most = min(max_rows, max(1, MAX_COPIED_TOKENS // max(1, shared)))
        for batch in batches_by_length(tails, max(1, max_tokens - shared), most):
            batches.append([group[place] for place in batch])
    return batches


def _groups(rows: Rows, order: list[int], shared: int) -> list[list[int]]:
    """The sorted rows, parted where a part has much more in common than all have; the rest last."""
    parts = _cut(rows, order, shared + MIN_MORE_TOKENS)
    apart = [part for part in parts if len(part) >= MIN_ROWS]
    rest = [row for part in parts if len(part) < MIN_ROWS for row in part]
    if len(apart) == 1 and not rest:
        return [order]
    groups = [group for part in apart for group in _groups(rows, part, _common(rows, part))]
    return [*groups, rest] if rest else groups


def _cut(rows: Rows, order: list[int], tokens: int) -> list[list[int]]:
    """Sorted rows, cut between neighbours that do not share so many tokens."""
    parts = [order[:1]]
    for one, two in pairwise(order):
        if rows[one][:tokens] == rows[two][:tokens] and len(rows[one]) > tokens:
            parts[-1].append(two)
        else:
            parts.append([two])
    return parts


def _common(rows: Rows, order: list[int]) -> int:
    """Tokens that sorted rows begin with in common, each with one more at least."""
    if len(order) < 2:
        return 0
    first, last = rows[order[0]], rows[order[-1]]
    most = min(len(rows[row]) for row in order) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)
