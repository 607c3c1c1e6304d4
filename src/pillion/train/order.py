"""In which order rows are trained on: shuffled, of similar length within a batch.

Promises the same order for the same seed and epoch, on any machine, and every row once an epoch.
Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pillion.core.batching import batches_by_length

# Rows of so many batches are sorted by length among themselves: little padding, still random.
_BATCHES_A_POOL = 50


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The row ids of every step of an epoch.

    Args:
        lengths: tokens of every row.
        batch_size: rows a step; the last one may have fewer.
        seed: of the order.
        epoch: from 0; each has its own order.
    """
    random = np.random.default_rng((seed, epoch))
    rows = random.permutation(len(lengths))
    tokens = np.asarray(lengths)
    pool = batch_size * _BATCHES_A_POOL
    batches: list[list[int]] = []
    for start in range(0, len(rows), pool):
        chosen = rows[start : start + pool]
        chosen = chosen[np.argsort(tokens[chosen], kind="stable")]
        batches += [chosen[i : i + batch_size].tolist() for i in range(0, len(chosen), batch_size)]
    return [batches[place] for place in random.permutation(len(batches))]


def parts(row_ids: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """The rows of a step in pieces of at most `max_tokens` padded tokens (or one row)."""
    own = [lengths[row_id] for row_id in row_ids]
    if max(own) * len(own) <= max_tokens:
        return [list(row_ids)]
    pieces = batches_by_length(own, max_tokens, max_rows=len(own))
    return [[row_ids[place] for place in piece] for piece in pieces]
