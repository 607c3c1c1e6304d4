"""Fills a cache from a model: one pass over the rows, shard by shard, as often resumed as needed.

Promises that nothing is computed twice and that an interrupted run is finished by the same call.
Does not know labels or probes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from jaxtyping import Float
from torch import Tensor

from pillion.backends import Backend
from pillion.cache import DTYPES, CacheReader, CacheSpec, CacheWriter, Shard, ShardWriter, Workspace
from pillion.core import Scope
from pillion.errors import Interrupted
from pillion.extract.beginnings import batches_by_beginning
from pillion.extract.collector import BATCH_TOKENS, Collector, run_batch
from pillion.extract.identity import cache_spec
from pillion.extract.makers import Maker, forget_makers
from pillion.extract.progress import Progress, silent
from pillion.extract.scoped import read_part

Rows = Sequence[Sequence[int]] | Mapping[int, Sequence[int]]
"""Token ids by row id."""


def extract(
    backend: Backend,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    path: str | os.PathLike[str],
    key: str,
    progress: Progress = silent,
    scope: Scope = "all",
) -> CacheReader:
    """The hidden states of all rows, on disk; what an earlier run left there is kept.

    Args:
        backend: the model.
        token_ids: of every row.
        layers: those to keep.
        path: folder of the cache.
        key: of `cache_key`.
        progress: told of every batch.
        scope: whose tokens' states are kept.

    Raises:
        StorageError: another cache lies there, or the disk is full.
        StateError: a state is not finite; the message names row, token and layer.
        MismatchError: another machine has begun, whose states are not those of this one.
        Interrupted: by Ctrl-C; whole shards stay.
    """
    spec = cache_spec(backend.identity, layers, key, token_ids, scope)

    def run(writer: CacheWriter) -> None:
        missing, total = writer.missing(), sum(spec.lengths)
        done = total - num_tokens(missing)

        def count(batch_tokens: int) -> None:
            nonlocal done
            done += batch_tokens
            progress("extract", done, total)

        if missing:
            Maker.of(backend).meet(writer.path)
        ShardFiller(backend, writer.shards).fill(missing, token_ids, count)

    return complete(path, spec, run)


def complete(
    path: str | os.PathLike[str], spec: CacheSpec, run: Callable[[CacheWriter], None]
) -> CacheReader:
    """The cache of a spec, once this run and others have written the shards that it lacked.

    Args:
        path: folder of the cache.
        spec: what it is for.
        run: writes what is missing, here or elsewhere.

    Raises:
        StorageError: another cache lies there, the disk is full, or shards are missing in the end.
        Interrupted: by Ctrl-C; whole shards stay.
    """
    fill_cache(CacheWriter(path, spec), run)
    return CacheReader(path)


def fill_cache(writer: CacheWriter, run: Callable[[CacheWriter], None]) -> None:
    """Completes a cache; see `complete`, which reads it too."""
    try:
        run(writer)
        writer.finish()
        forget_makers(writer.path)
    except KeyboardInterrupt as error:
        num_shards = len(writer.spec.shards)
        left = f"{num_shards - len(writer.missing())} of {num_shards} shards are kept"
        raise Interrupted(
            f"Extraction was interrupted ({left} in {writer.path}); run the same command again to "
            "finish."
        ) from error


def num_tokens(shards: Iterable[Shard]) -> int:
    """Tokens of all rows of these shards."""
    return sum(sum(shard.lengths) for shard in shards)


class ShardFiller:
    """Computes shards of a cache, each written in the background while the next one is computed.

    What a shard holds depends on its own rows alone, not on which others are filled, or where.

    Args:
        backend: the model.
        writer: of the cache.
    """

    def __init__(self, backend: Backend, writer: ShardWriter) -> None:
        self.backend, self.writer = backend, writer
        self.collector = Collector(writer.spec.layers)
        # Two places: one is filled while the other is written.
        self._workspaces = [Workspace(), Workspace()]

    def fill(self, shards: Iterable[Shard], rows: Rows, count: Callable[[int], object]) -> None:
        """Puts shards on disk; all are there when this returns.

        Args:
            shards: of the cache's spec.
            rows: token ids of their rows.
            count: told how many tokens a batch had.

        Raises:
            StorageError: the disk is full, or cannot be written.
            StateError: a state is not finite.
        """
        places: list[tuple[Workspace, Future[None] | None]] = [(w, None) for w in self._workspaces]
        with (
            ThreadPoolExecutor(1) as pool,
            self.backend.watch(self.collector, self.writer.spec.layers),
        ):
            for shard in shards:
                workspace, written = places.pop(0)
                if written is not None:
                    written.result()
                states = self._compute(shard, rows, workspace, count)
                places.append((workspace, pool.submit(self.writer.write, shard, states)))
            for _, written in places:
                if written is not None:
                    written.result()

    def _compute(
        self, shard: Shard, rows: Rows, workspace: Workspace, count: Callable[[int], object]
    ) -> list[Float[Tensor, "layer _token dim"]]:
        states = _blocks(self.writer.spec, shard, workspace)
        scope = self.writer.spec.scope
        for batch in shard_batches(shard, rows, scope):
            batch_rows = [rows[shard.row_ids[place]] for place in batch]
            own = [states[place] for place in batch]
            run_batch(self.backend, self.collector, batch_rows, own, scope)
            count(sum(shard.lengths[place] for place in batch))
        return states


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


def shard_batches(shard: Shard, rows: Rows, scope: Scope) -> list[list[int]]:
    """Places of a shard's rows that run together; see `places_together`."""
    return places_together(shard.row_ids, shard.lengths, rows, scope)


def places_together(
    row_ids: Sequence[int], lengths: Sequence[int], rows: Rows, scope: Scope
) -> list[list[int]]:
    """Places of rows that run together; rows without tokens need no run.

    Args:
        row_ids: of the rows, at their places.
        lengths: tokens kept of each.
        rows: token ids by row id.
        scope: whose tokens are kept.
    """
    filled = [place for place, length in enumerate(lengths) if length]
    run = [read_part(rows[row_ids[place]], scope) for place in filled]
    batches = batches_by_beginning(run, BATCH_TOKENS)
    return [[filled[place] for place in batch] for batch in batches]
