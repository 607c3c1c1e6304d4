"""Fills a cache, shard by shard, in as many runs as it takes.

Promises that only whole shards of finite states lie under their final names, and that the manifest
comes last. Does not know where states come from, nor in which order shards are written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.cache import disk
from pillion.cache.manifest import (
    MANIFEST_NAME,
    read_manifest,
    read_spec,
    remove_manifest,
    write_manifest,
    write_spec,
)
from pillion.cache.shard_file import ShardFile, shard_file
from pillion.cache.spec import DTYPES, CacheSpec, Shard
from pillion.errors import StateError, StorageError

Written = tuple[str, int]
"""Hex SHA-256 of a shard's file as it was written, and the inode that holds it."""


class CacheWriter:
    """Writes the shards that a cache still lacks; several processes may do so at once.

    Attributes:
        path: folder of the cache, made if it is not there.
        spec: what the cache is for.

    Raises:
        StorageError: a cache of another spec lies there, or the disk has no room for what is
            missing.
    """

    def __init__(self, path: str | os.PathLike[str], spec: CacheSpec) -> None:
        self.path = Path(path)
        self.spec = spec
        self._files = [shard_file(spec, shard) for shard in spec.shards]
        self._written: dict[int, Written] = {}
        self._open()

    @property
    def complete(self) -> bool:
        """Whether the cache can be read."""
        return (self.path / MANIFEST_NAME).exists()

    def missing(self, among: Iterable[Shard] | None = None) -> list[Shard]:
        """The shards that are not on disk, or broken there (another size or header).

        Args:
            among: shards to look for; None for all.
        """
        with disk.storage_errors(self.path):
            return [
                shard
                for shard in (self.spec.shards if among is None else among)
                if not self._files[shard.shard_id].lies_in(self.path)
            ]

    def write(self, shard: Shard, states: Sequence[Float[Tensor, "layer _token dim"]]) -> None:
        """Puts a shard on disk; does nothing if it lies there whole.

        Args:
            shard: one of `spec.shards`.
            states: one tensor a row, in the spec's dtype, layers in the spec's order.

        Raises:
            StateError: a row is not what the spec says, or not finite; nothing is written.
            StorageError: the disk is full, or cannot be written; the shard stays missing.
        """
        self._check_states(shard, states)
        file = self._files[shard.shard_id]
        if not file.lies_in(self.path):
            self._written[shard.shard_id] = _write_file(self.path, file, states)

    def written(self, shard: Shard) -> Written:
        """What lies on disk of a shard; read there if this process has not written it.

        Raises:
            StorageError: it cannot be read.
        """
        path = self.path / self._files[shard.shard_id].name
        digest, inode = self._written.get(shard.shard_id, ("", -1))
        with disk.storage_errors(path):
            found = path.stat().st_ino
            # An earlier run wrote it, or another process has put its own file there since.
            return digest if found == inode else disk.file_digest(path), found

    def note(self, shard: Shard, written: Written) -> None:
        """Takes the word of another process for what it wrote, instead of reading it again."""
        self._written[shard.shard_id] = written

    def finish(self) -> None:
        """Declares the cache complete and removes what killed runs have left.

        Raises:
            StorageError: shards are missing, or the disk cannot be written.
        """
        missing, num_shards = self.missing(), len(self._files)
        if missing:
            raise StorageError(
                f"{len(missing)} of {num_shards} shards are missing in {self.path}; "
                "write them first."
            )
        if not self.complete:
            digests = [self.written(shard)[0] for shard in self.spec.shards]
            write_manifest(self.path, self.spec, self._files, digests)
        disk.remove_temporary_files(self.path)

    def _open(self) -> None:
        manifest = read_manifest(self.path)
        there = manifest.spec if manifest else read_spec(self.path)
        if there is not None and there != self.spec:
            raise StorageError(
                f"Another cache lies in {self.path} ({there.differences(self.spec)}); choose "
                "another folder, or delete this one."
            )
        missing = self.missing()
        disk.require_free(self.path, sum(self._files[s.shard_id].num_bytes for s in missing))
        if there is None:
            with disk.storage_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            write_spec(self.path, self.spec)
        if missing and manifest:
            remove_manifest(self.path)

    def _check_states(self, shard: Shard, states: Sequence[Tensor]) -> None:
        if len(states) != len(shard.row_ids):
            raise StateError(
                f"Shard {shard.shard_id} has {len(shard.row_ids)} rows, got {len(states)}; give "
                "the states of each of them."
            )
        for row_id, length, hidden in zip(shard.row_ids, shard.lengths, states, strict=True):
            _check_shape(self.spec, row_id, length, hidden)
            _check_finite(self.spec, row_id, hidden)


def _write_file(folder: Path, file: ShardFile, states: Sequence[Tensor]) -> Written:
    digest = hashlib.sha256(file.prefix)
    with disk.replacing(folder / file.name) as out:
        out.write(file.prefix)
        for hidden in states:
            content = _raw_bytes(hidden)
            digest.update(content)
            out.write(content)
        inode = os.fstat(out.fileno()).st_ino
    return digest.hexdigest(), inode


def _raw_bytes(hidden: Tensor) -> memoryview:
    flat = hidden.detach().cpu().contiguous().view(-1)
    # numpy has no bfloat16; bytes are the same in any dtype.
    return flat.view(torch.uint8).numpy().data


def _check_shape(spec: CacheSpec, row_id: int, length: int, hidden: Tensor) -> None:
    wanted = (len(spec.layers), length, spec.dim)
    if hidden.shape != wanted or hidden.dtype != DTYPES[spec.dtype]:
        raise StateError(
            f"Row {row_id} has states {tuple(hidden.shape)} of {hidden.dtype}; this cache holds "
            f"(layer, token, dim) = {wanted} of {DTYPES[spec.dtype]}. Convert them before writing."
        )


def _check_finite(spec: CacheSpec, row_id: int, hidden: Tensor) -> None:
    if not hidden.numel():
        return
    # Both extremes are finite only if all is, and take a tenth of the time of `isfinite().all()`.
    extremes = torch.stack(torch.aminmax(hidden))
    if not bool(torch.isfinite(extremes).all()):
        layer_index, token_id = (int(i) for i in torch.nonzero(~torch.isfinite(hidden))[0, :2])
        raise StateError(
            f"The hidden state of row {row_id}, token {token_id}, "
            f"layer {spec.layers[layer_index]} is not finite; run the model in bfloat16 or "
            "float32, or leave the row out."
        )
