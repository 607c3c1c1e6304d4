"""Writes single shards of a cache, each without knowing the others.

Promises that only whole shards of finite states lie under their final names.
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
from pillion.cache.shard_file import ShardFile, shard_file
from pillion.cache.spec import DTYPES, CacheSpec, Shard
from pillion.errors import StateError

Written = tuple[str, int]
"""Hex SHA-256 of a shard's file as it was written, and the inode that holds it."""


class ShardWriter:
    """Writes shards into a folder that is there; several processes may do so at once.

    Attributes:
        path: folder of the cache.
        spec: what the cache is for; its rows are not asked for.
    """

    def __init__(self, path: str | os.PathLike[str], spec: CacheSpec) -> None:
        self.path = Path(path)
        self.spec = spec
        self._written: dict[int, Written] = {}

    def missing(self, among: Iterable[Shard]) -> list[Shard]:
        """The shards that are not on disk, or broken there (another size or header)."""
        with disk.storage_errors(self.path):
            return [shard for shard in among if not self._file(shard).lies_in(self.path)]

    def write(self, shard: Shard, states: Sequence[Float[Tensor, "layer _token dim"]]) -> None:
        """Puts a shard on disk; does nothing if it lies there whole.

        Args:
            shard: of the spec.
            states: one tensor a row, in the spec's dtype, layers in the spec's order.

        Raises:
            StateError: a row is not what the spec says, or not finite; nothing is written.
            StorageError: the disk is full, or cannot be written; the shard stays missing.
        """
        self._check_states(shard, states)
        file = self._file(shard)
        if not file.lies_in(self.path):
            self._written[shard.shard_id] = _write_file(self.path, file, states)

    def written(self, shard: Shard) -> Written:
        """What lies on disk of a shard; read there if this process has not written it.

        Raises:
            StorageError: it cannot be read.
        """
        path = self.path / self._file(shard).name
        digest, inode = self._written.get(shard.shard_id, ("", -1))
        with disk.storage_errors(path):
            found = path.stat().st_ino
            # An earlier run wrote it, or another process has put its own file there since.
            return digest if found == inode else disk.file_digest(path), found

    def note(self, shard: Shard, written: Written) -> None:
        """Takes the word of another process for what it wrote, instead of reading it again."""
        self._written[shard.shard_id] = written

    def _file(self, shard: Shard) -> ShardFile:
        # Made anew each time: together their headers take eight bytes a row.
        return shard_file(self.spec, shard)

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
