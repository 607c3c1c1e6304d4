"""Reads batches of states one ahead of the computation.

Promises the batches asked for, in order, in memory for two of them, where and in the dtype that
they are computed on. Does not know what for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from pillion.cache import Workspace
from pillion.core.arithmetic import fast_dtype
from pillion.extract import Batch, StateSource


def read_batches(
    source: StateSource, batches: Sequence[Sequence[int]], device: torch.device
) -> Iterator[Batch]:
    """The states of each batch on a device; valid until the next one is asked for.

    They come in a dtype that the device multiplies fast; a wider one changes no number.
    """
    workspace = Workspace()
    for hidden, mask in _as_stored(source, batches):
        dtype = fast_dtype(hidden.dtype, device)
        if dtype != hidden.dtype:  # in memory that is used again: fresh pages cost more than sums
            hidden = workspace.take(tuple(hidden.shape), dtype).copy_(hidden)
        yield hidden.to(device), mask.to(device)


def _as_stored(source: StateSource, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
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
