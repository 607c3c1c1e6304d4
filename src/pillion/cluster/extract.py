"""Fills a cache on a cluster: workers compute and write whole shards, the driver only counts.

Promises the files that `extract.extract` writes, byte for byte, and that a run after any crash
computes the missing shards alone. The folder has to lie on a file system that all nodes share.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pillion.backends import Backend
from pillion.cache import CacheSpec, CacheWriter, Shard, ShardWriter, Written, is_of
from pillion.cluster.pool import WorkerPool
from pillion.cluster.tally import Tally
from pillion.cluster.tokens import TokenFile, Tokenised
from pillion.core import Tokens
from pillion.errors import StorageError
from pillion.extract import Progress, ShardFiller, fill_cache, num_tokens, silent

MOST_SHARDS = 4
"""Shards a unit at most: while one is written the next is computed, so most writes cost nothing."""


KEPT_SHARDS = 16
"""Shards of earlier runs a unit: a few seconds of reading."""


def extract_on(
    pool: WorkerPool,
    tokens: Tokenised,
    spec: CacheSpec,
    path: str | os.PathLike[str],
    progress: Progress = silent,
    tally: Tally | None = None,
) -> None:
    """The hidden states of all rows, on disk; what an earlier run left there is kept.

    Args:
        pool: of workers.
        tokens: of `tokenise_on`.
        spec: of these tokens.
        path: folder of the cache, under the same name on all nodes.
        progress: told of every unit.
        tally: told of every unit and its worker.

    Raises:
        StorageError: another cache lies there, the disk is full, or a node does not see it.
        StateError: a state is not finite; the message names row, token and layer.
        MismatchError: a worker has another model, or one that began before rounds otherwise.
        RunError: workers were lost over and over again.
        Interrupted: by Ctrl-C; whole shards stay.
    """
    folder, tally = Path(path).absolute(), tally or Tally()
    without_rows = replace(spec, lengths=(), segments=())

    def run(writer: CacheWriter) -> None:
        if writer.complete:
            return
        missing, total = writer.missing(), sum(spec.lengths)
        if missing:
            pool.maker.meet(folder)
        done_tokens = total - num_tokens(missing)
        units = [_unit(shards, tokens) for shards in _cut(missing, pool.num_workers)]
        kept = sorted({*range(len(spec.shards))} - {shard.shard_id for shard in missing})
        # What earlier runs left is read once more for the manifest: by all workers, not by one.
        for start in range(0, len(kept), KEPT_SHARDS):
            some = tuple(spec.shards[one] for one in kept[start : start + KEPT_SHARDS])
            units.append(_Unit(some, ()))
        for done in pool.run(_FillJob(folder, without_rows), units):
            for shard_id, written in done.value.items():
                writer.shards.note(spec.shards[shard_id], written)
            if done.tokens:  # reading what was kept is no measure of a worker
                tally.add(done)
            done_tokens += done.tokens
            progress("extract", done_tokens, total)

    fill_cache(CacheWriter(folder, spec), run)


@dataclass(frozen=True)
class _Unit:
    """Shards, and where the tokens of their rows lie; nowhere for shards that are there already."""

    shards: tuple[Shard, ...]
    sources: tuple[tuple[Path, int, int], ...]


def _unit(shards: Sequence[Shard], tokens: Tokenised) -> _Unit:
    found = [one for shard in shards for one in tokens.sources(shard.row_ids)]
    return _Unit(tuple(shards), tuple(found))


def _cut(shards: Sequence[Shard], num_workers: int) -> list[Sequence[Shard]]:
    """Shards by unit: several at first, single ones in the end, so that workers end together."""
    units: list[Sequence[Shard]] = []
    start = 0
    while start < len(shards):
        size = max(1, min(MOST_SHARDS, (len(shards) - start) // (3 * num_workers)))
        units.append(shards[start : start + size])
        start += size
    return units


class _FillJob:
    """What a worker does with a unit: the shards that are still missing, computed and written."""

    def __init__(self, folder: Path, spec: CacheSpec) -> None:
        self.folder, self.spec = folder, spec
        self._filler: ShardFiller | None = None

    def __call__(self, backend: Backend, unit: _Unit) -> tuple[dict[int, Written], int]:
        self._filler = self._filler or self._open(backend)
        writer = self._filler.writer
        if unit.sources:
            # A worker that was lost may have finished some of them.
            self._filler.fill(writer.missing(unit.shards), _rows(unit), lambda _: None)
        written = {shard.shard_id: writer.written(shard) for shard in unit.shards}
        return written, num_tokens(unit.shards) if unit.sources else 0

    def _open(self, backend: Backend) -> ShardFiller:
        if not is_of(self.folder, self.spec.key):
            raise StorageError(
                f"This node does not see the cache in {self.folder}; give a folder on a file "
                "system that all nodes share."
            )
        return ShardFiller(backend, ShardWriter(self.folder, self.spec))


def _rows(unit: _Unit) -> dict[int, Tokens]:
    """Tokens by row id."""
    ids = (row for shard in unit.shards for row in shard.row_ids)
    found: dict[int, Tokens] = {}
    last: tuple[Path, TokenFile] | None = None
    for path, first, num_rows in unit.sources:
        if last is None or last[0] != path:
            last = path, TokenFile.read(path)
        # The rows first: where they end, no id may be taken.
        found |= {row: own for own, row in zip(last[1].rows(first, num_rows), ids, strict=False)}
    return found
