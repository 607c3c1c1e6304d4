"""Reads batches of states one ahead of whoever computes on them.

Promises the batches asked for, in order, in memory for two of them. Does not know what they are
for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pillion.cache import Workspace
from pillion.extract import Batch, StateSource


def read_batches(source: StateSource, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
    """The states of each batch; valid until the next one is asked for."""
    if not source.reads_ahead:
        workspace = Workspace()
        for row_ids in batches:
            yield source.read_batch(row_ids, workspace)
        return
    places = (Workspace(), Workspace())
    with ThreadPoolExecutor(1) as pool:
        following = None
        for number, row_ids in enumerate(batches):
            current = following or pool.submit(source.read_batch, row_ids, places[number % 2])
            batch = current.result()
            # Only now: the workspace of the batch before the current one is free again.
            if number + 1 < len(batches):
                other = places[(number + 1) % 2]
                following = pool.submit(source.read_batch, batches[number + 1], other)
            yield batch
