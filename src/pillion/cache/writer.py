"""Fills a cache, shard by shard, in as many runs as it takes.

Promises that only whole shards of finite states lie under their final names, and that the manifest
comes last. Does not know where states come from, nor in which order shards are written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from pillion.cache import disk
from pillion.cache.manifest import (
    MANIFEST_NAME,
    SPEC_NAME,
    read_manifest,
    read_spec,
    remove_manifest,
    says,
    write_manifest,
    write_spec,
)
from pillion.cache.shard_file import shard_file
from pillion.cache.shard_writer import ShardWriter, Written
from pillion.cache.spec import CacheSpec, Shard
from pillion.errors import StorageError


class CacheWriter:
    """Writes the shards that a cache still lacks; several processes may do so at once.

    Attributes:
        path: folder of the cache, made if it is not there.
        spec: what the cache is for.
        shards: writes single ones.

    Raises:
        StorageError: a cache of another spec lies there, or the disk has no room for what is
            missing.
    """

    def __init__(self, path: str | os.PathLike[str], spec: CacheSpec) -> None:
        self.path = Path(path)
        self.spec = spec
        self.shards = ShardWriter(path, spec)
        self._open()

    @property
    def complete(self) -> bool:
        """Whether the cache can be read."""
        return (self.path / MANIFEST_NAME).exists()

    def missing(self) -> list[Shard]:
        """The shards that are not on disk, or broken there (another size or header)."""
        return self.shards.missing(self.spec.shards)

    def write(self, shard: Shard, states: Sequence[Float[Tensor, "layer _token dim"]]) -> None:
        """Puts a shard on disk; see `ShardWriter.write`."""
        self.shards.write(shard, states)

    def written(self, shard: Shard) -> Written:
        """What lies on disk of a shard; see `ShardWriter.written`."""
        return self.shards.written(shard)

    def finish(self) -> None:
        """Declares the cache complete and removes what killed runs have left.

        Raises:
            StorageError: shards are missing, or the disk cannot be written.
        """
        missing, num_shards = self.missing(), len(self.spec.shards)
        if missing:
            raise StorageError(
                f"{len(missing)} of {num_shards} shards are missing in {self.path}; "
                "write them first."
            )
        if not self.complete:
            digests = (self.written(shard)[0] for shard in self.spec.shards)
            files = (shard_file(self.spec, shard) for shard in self.spec.shards)
            write_manifest(self.path, self.spec, files, digests)
        disk.remove_temporary_files(self.path)

    def _open(self) -> None:
        was_complete, there = self.complete, self._spec_there()
        if there is not None and there != self.spec:
            raise StorageError(
                f"Another cache lies in {self.path} ({there.differences(self.spec)}); choose "
                "another folder, or delete this one."
            )
        missing = self.missing()
        num_bytes = sum(shard_file(self.spec, shard).num_bytes for shard in missing)
        disk.require_free(self.path, num_bytes)
        if there is None:
            with disk.storage_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            write_spec(self.path, self.spec)
        if missing and was_complete:
            remove_manifest(self.path)

    def _spec_there(self) -> CacheSpec | None:
        """What the cache in the folder is for; not parsed where it is this very spec."""
        for name in (MANIFEST_NAME, SPEC_NAME):
            if says(self.path / name, self.spec):
                return self.spec
        manifest = read_manifest(self.path)
        return manifest.spec if manifest else read_spec(self.path)
