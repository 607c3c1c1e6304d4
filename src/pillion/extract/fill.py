"""Fills a cache from a model: one pass over the rows, shard by shard, as often resumed as needed.

Promises that nothing is computed twice and that an interrupted run is finished by the same call.
Does not know labels or probes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from jaxtyping import Float
from torch import Tensor

from pillion.backends import Backend
from pillion.cache import DTYPES, CacheReader, CacheSpec, CacheWriter, Shard, Workspace
from pillion.core.batching import batches_by_length
from pillion.errors import Interrupted
from pillion.extract.collector import Collector, run_batch
from pillion.extract.identity import cache_spec
from pillion.extract.progress import Progress, silent

BATCH_TOKENS = 2048
"""Padded tokens of a forward pass; more gains nothing and pads shorter rows further."""


def extract(
    backend: Backend,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    path: str | os.PathLike[str],
    key: str,
    progress: Progress = silent,
) -> CacheReader:
    """The hidden states of all rows, on disk; what an earlier run left there is kept.

    Args:
        backend: the model.
        token_ids: of every row.
        layers: those to keep.
        path: folder of the cache.
        key: of `cache_key`.
        progress: told of every batch.

    Raises:
        StorageError: another cache lies there, or the disk is full.
        StateError: a state is not finite; the message names row, token and layer.
        Interrupted: by Ctrl-C; whole shards stay.
    """
    spec = cache_spec(backend.identity, layers, key, token_ids)
    writer = CacheWriter(path, spec)
    try:
        _fill(backend, token_ids, writer, progress)
    except KeyboardInterrupt as error:
        left = f"{len(spec.shards) - len(writer.missing())} of {len(spec.shards)} shards are kept"
        raise Interrupted(
            f"Extraction was interrupted ({left} in {path}); run the same command again to finish."
        ) from error
    return CacheReader(path)


def _fill(
    backend: Backend, token_ids: Sequence[Sequence[int]], writer: CacheWriter, progress: Progress
) -> None:
    """Runs the missing shards, each written in the background while the next one is computed."""
    spec, missing = writer.spec, writer.missing()
    collector = Collector(spec.layers)
    # Two places: one is filled while the other is written.
    places: list[tuple[Workspace, Future[None] | None]] = [(Workspace(), None), (Workspace(), None)]
    total = sum(spec.lengths)
    done = total - sum(sum(shard.lengths) for shard in missing)
    with ThreadPoolExecutor(1) as pool, backend.watch(collector, spec.layers):
        for shard in missing:
            workspace, written = places.pop(0)
            if written is not None:
                written.result()
            states = _blocks(spec, shard, workspace)
            for batch in shard_batches(shard):
                rows = [token_ids[shard.row_ids[place]] for place in batch]
                run_batch(backend, collector, rows, [states[place] for place in batch])
                done += sum(map(len, rows))
                progress("extract", done, total)
            places.append((workspace, pool.submit(writer.write, shard, states)))
        for _, written in places:
            if written is not None:
                written.result()
    writer.finish()


def _blocks(
    spec: CacheSpec, shard: Shard, workspace: Workspace
) -> list[Float[Tensor, "layer _token dim"]]:
    """One block a row, one after the other in the same memory, as they will lie on disk."""
    num_layers = len(spec.layers)
    flat = workspace.take((sum(shard.lengths) * num_layers, spec.dim), DTYPES[spec.dtype])
    blocks: list[Tensor] = []
    start = 0
    for length in shard.lengths:
        stop = start + length * num_layers
        blocks.append(flat[start:stop].view(num_layers, length, spec.dim))
        start = stop
    return blocks


def shard_batches(shard: Shard) -> Iterator[list[int]]:
    """Places of a shard's rows that run together; rows without tokens need no run."""
    for batch in batches_by_length(shard.lengths, BATCH_TOKENS):
        filled = [place for place in batch if shard.lengths[place]]
        if filled:
            yield filled
