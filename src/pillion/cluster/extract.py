"""Fills a cache on a cluster: workers compute and write whole shards, the driver only counts.

Promises the files that `extract.extract` writes, byte for byte, and that a run after any crash
computes the missing shards alone. The folder has to lie on a file system that all nodes share.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pillion.backends import Backend
from pillion.cache import CacheReader, CacheSpec, CacheWriter, Shard, Written, read_spec
from pillion.cluster.pool import Crew
from pillion.cluster.same_model import check_same
from pillion.cluster.tally import Tally
from pillion.core import ModelIdentity, Tokens, as_tokens
from pillion.errors import StorageError
from pillion.extract import Encoded, Progress, ShardFiller, complete, num_tokens, silent

MOST_SHARDS = 4
"""Shards a unit at most: while one is written the next is computed, so most writes cost nothing."""


KEPT_SHARDS = 16
"""Shards of earlier runs a unit: a few seconds of reading."""


def extract_on(
    crew: Crew,
    encoded: Encoded,
    spec: CacheSpec,
    path: str | os.PathLike[str],
    progress: Progress = silent,
    tally: Tally | None = None,
) -> CacheReader:
    """The hidden states of all rows, on disk; what an earlier run left there is kept.

    Args:
        crew: who works.
        encoded: of `encode_on`.
        spec: of `cache_spec`.
        path: folder of the cache, under the same name on all nodes.
        progress: told of every unit.
        tally: told of every unit, and who did it.

    Raises:
        StorageError: another cache lies there, the disk is full, or a node does not see it.
        StateError: a state is not finite; the message names row, token and layer.
        MismatchError: a worker has another model.
        RunError: workers were lost over and over again.
        Interrupted: by Ctrl-C; whole shards stay.
    """
    folder, tally = Path(path).absolute(), tally or Tally()
    identity, token_ids = encoded.identity, encoded.token_ids

    def run(writer: CacheWriter) -> None:
        if writer.complete:
            return
        missing, total = writer.missing(), sum(spec.lengths)
        done_tokens = total - num_tokens(missing)
        units = [_unit(shards, token_ids) for shards in _cut(missing, crew.num_workers)]
        kept = sorted({*range(len(spec.shards))} - {shard.shard_id for shard in missing})
        # What earlier runs left is read once more for the manifest: by all workers, not by one.
        starts = range(0, len(kept), KEPT_SHARDS)
        units += [_Unit(tuple(kept[start : start + KEPT_SHARDS]), {}) for start in starts]
        for done in crew.run(_FillJob(folder, identity, spec.key), units):
            for shard_id, written in done.value.items():
                writer.note(spec.shards[shard_id], written)
            if done.tokens:  # reading what was kept is no measure of a worker
                tally.add(done)
            done_tokens += done.tokens
            progress("extract", done_tokens, total)

    return complete(folder, spec, run)


@dataclass(frozen=True)
class _Unit:
    """Shards, and the token ids of their rows by row id; no rows where shards are there already."""

    shard_ids: tuple[int, ...]
    rows: dict[int, Tokens]


def _unit(shards: Sequence[Shard], token_ids: Sequence[Sequence[int]]) -> _Unit:
    rows = {row: as_tokens(token_ids[row]) for shard in shards for row in shard.row_ids}
    return _Unit(tuple(shard.shard_id for shard in shards), rows)


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

    def __init__(self, folder: Path, identity: ModelIdentity, key: str) -> None:
        self.folder, self.identity, self.key = folder, identity, key
        self._filler: ShardFiller | None = None

    def __call__(self, backend: Backend, unit: _Unit) -> tuple[dict[int, Written], int]:
        self._filler = self._filler or self._open(backend)
        writer = self._filler.writer
        shards = [writer.spec.shards[shard_id] for shard_id in unit.shard_ids]
        if unit.rows:
            # A worker that was lost may have finished some of them.
            self._filler.fill(writer.missing(shards), unit.rows, lambda _: None)
        written = {shard.shard_id: writer.written(shard) for shard in shards}
        return written, num_tokens(shards) if unit.rows else 0

    def _open(self, backend: Backend) -> ShardFiller:
        check_same(self.identity, backend.identity)
        spec: CacheSpec | None = read_spec(self.folder)
        if spec is None or spec.key != self.key:
            raise StorageError(
                f"This node does not see the cache in {self.folder}; give a folder on a file "
                "system that all nodes share."
            )
        return ShardFiller(backend, CacheWriter(self.folder, spec))
