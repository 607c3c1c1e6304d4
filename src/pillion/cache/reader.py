"""Reads the rows of a complete cache, alone or as padded batches, at the speed of the disk.

Promises the states as they were written, in any order, with memory for one batch however large the
cache: files are read at known places and never mapped, as mapped pages would count as this
process's memory. Does not know models or labels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pillion.cache import disk
from pillion.cache.manifest import CacheManifest, read_manifest, read_spec
from pillion.cache.shard_file import ShardFile, shard_file
from pillion.cache.spec import DTYPES, CacheSpec
from pillion.errors import ConfigError, StorageError


class Workspace:
    """Memory for one batch that is used again for the next.

    Fresh memory for a batch costs more than reading it from the page cache: the system has to find
    and clear its pages. A batch read into a workspace is valid until the workspace is used again.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor of this shape and dtype, with arbitrary contents."""
        num_elements = math.prod(shape)
        buffer = self._buffer
        if buffer is None or buffer.dtype != dtype or buffer.numel() < num_elements:
            # Dropped first, so that there are never two.
            self._buffer = buffer = None
            self._buffer = buffer = torch.empty(num_elements, dtype=dtype)
        return buffer[:num_elements].view(shape)


@dataclass(frozen=True)
class _LayerRun:
    """Layers that lie one after the other both on disk and in the batch."""

    stored: int
    start: int
    stop: int


class CacheReader:
    """The rows of a complete cache; a context manager that keeps a file open for every shard.

    Threads may share a reader. A reader that is closed raises ValueError, as a closed file does.

    Args:
        path: folder of the cache.
        layers: those to read, in this order; None reads all.

    Attributes:
        path: folder of the cache.
        spec: what the cache is for.
        layers: the layers that are read, in the order of the tensors.

    Raises:
        StorageError: no cache lies there, it is incomplete, or its files cannot be read.
        ConfigError: a layer that the cache does not hold.
    """

    def __init__(self, path: str | os.PathLike[str], layers: tuple[int, ...] | None = None) -> None:
        self.path = Path(path)
        self._manifest = _require_manifest(self.path)
        self.spec = self._manifest.spec
        self.layers = self.spec.layers if layers is None else layers
        self._runs = _runs(_stored_places(self.spec, self.layers))
        shard_files = [shard_file(self.spec, shard) for shard in self.spec.shards]
        self._shard_ids, self._offsets = _places(self.spec, shard_files)
        self._files = _open_files(self.path, shard_files)

    def __len__(self) -> int:
        return len(self.spec.lengths)

    def __enter__(self) -> CacheReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all files; a second time does nothing."""
        for file in self._files:
            file.close()

    def read(self, row_id: int) -> Float[Tensor, "layer token dim"]:
        """The states of one row, in the stored dtype.

        Raises:
            IndexError: there is no such row.
            StorageError: the disk cannot be read.
        """
        hidden, _ = self.read_batch([row_id])
        return hidden[:, 0]

    def read_batch(
        self, row_ids: Sequence[int], workspace: Workspace | None = None
    ) -> tuple[Float[Tensor, "layer batch token dim"], Bool[Tensor, "batch token"]]:
        """The states of several rows, padded with zeros on the right, and the mask of their tokens.

        Args:
            row_ids: in any order; a row may come twice.
            workspace: memory to use again. The states are then valid until its next use; without it
                they are the caller's to keep.

        Returns:
            States in the stored dtype, as many tokens as the longest row has, and the mask.

        Raises:
            IndexError: there is no such row.
            StorageError: the disk cannot be read.
        """
        lengths = [self._length(row_id) for row_id in row_ids]
        shape = (len(self.layers), len(lengths), max(lengths, default=0), self.spec.dim)
        hidden = (workspace or Workspace()).take(shape, DTYPES[self.spec.dtype])
        content = hidden.view(-1).view(torch.uint8).numpy().data
        with disk.storage_errors(self.path):
            for place, (row_id, length) in enumerate(zip(row_ids, lengths, strict=True)):
                # Straight to where they belong, layer by layer: no second copy.
                starts = range(place, shape[0] * shape[1], shape[1])
                self._read_row(row_id, length, content, [shape[2] * start for start in starts])
                hidden[:, place, length:].zero_()
        mask = torch.arange(shape[2]) < torch.tensor(lengths, dtype=torch.int64)[:, None]
        return hidden, mask

    def verify(self) -> None:
        """Reads the whole cache and compares it with the hashes taken when it was written.

        Raises:
            StorageError: contents have changed since; the message names the files.
        """
        with disk.storage_errors(self.path):
            digests = self._manifest.digests
            changed = [
                n for n, digest in digests.items() if disk.file_digest(self.path / n) != digest
            ]
        if changed:
            raise StorageError(
                f"The contents of {', '.join(changed)} in {self.path} have changed since they were "
                "written; delete these files and run the same command again."
            )

    def _length(self, row_id: int) -> int:
        if not 0 <= row_id < len(self):
            raise IndexError(f"There is no row {row_id} in a cache of {len(self)} rows.")
        return self.spec.lengths[row_id]

    def _read_row(
        self, row_id: int, length: int, content: memoryview, first_tokens: list[int]
    ) -> None:
        if not length:
            return
        token_bytes = self.spec.token_bytes
        layer_bytes = length * token_bytes
        starts = [first_token * token_bytes for first_token in first_tokens]
        buffers = [content[start : start + layer_bytes] for start in starts]
        file, offset = self._files[int(self._shard_ids[row_id])], int(self._offsets[row_id])
        for run in self._runs:
            wanted = buffers[run.start : run.stop]
            disk.read_into(file, wanted, offset + run.stored * layer_bytes)


def _require_manifest(folder: Path) -> CacheManifest:
    manifest = read_manifest(folder)
    spec = manifest.spec if manifest else read_spec(folder)
    if spec is None:
        raise StorageError(f"No cache lies in {folder}; fill one first, or give its folder.")
    with disk.storage_errors(folder):
        whole = [shard_file(spec, shard).lies_in(folder) for shard in spec.shards]
    # Without a manifest the last shard may be there, and the run that wrote it killed.
    if manifest is None or not all(whole):
        raise StorageError(
            f"The cache in {folder} is incomplete: {sum(whole)} of {len(whole)} shards; run the "
            "same command again to finish it."
        )
    return manifest


def _open_files(folder: Path, shard_files: list[ShardFile]) -> list[FileIO]:
    with ExitStack() as stack, disk.storage_errors(folder):
        files = [
            stack.enter_context(open(folder / file.name, "rb", buffering=0)) for file in shard_files
        ]
        # All are open: from here on `close` closes them.
        stack.pop_all()
    return files


def _places(spec: CacheSpec, shard_files: list[ShardFile]) -> tuple[np.ndarray, np.ndarray]:
    """For every row: its shard, and the byte of that shard's file at which it begins."""
    row_bytes = np.array(spec.lengths, dtype=np.int64) * len(spec.layers) * spec.token_bytes
    num_rows = [len(shard.row_ids) for shard in spec.shards]
    shard_ids = np.repeat(np.arange(len(num_rows)), num_rows)
    starts = np.cumsum(row_bytes) - row_bytes
    first_rows = np.array([shard.row_ids.start for shard in spec.shards], dtype=np.int64)
    data_starts = np.array([len(file.prefix) for file in shard_files], dtype=np.int64)
    return shard_ids, starts + (data_starts - starts[first_rows])[shard_ids]


def _stored_places(spec: CacheSpec, layers: tuple[int, ...]) -> list[int]:
    unknown = [layer for layer in layers if layer not in spec.layers]
    if unknown or not layers:
        raise ConfigError(
            f"This cache holds the layers {spec.layers}, got {layers}; choose among them, or fill "
            "another cache."
        )
    return [spec.layers.index(layer) for layer in layers]


def _runs(stored_places: list[int]) -> list[_LayerRun]:
    runs: list[_LayerRun] = []
    for index, stored in enumerate(stored_places):
        if runs and stored == runs[-1].stored + index - runs[-1].start:
            runs[-1] = _LayerRun(runs[-1].stored, runs[-1].start, index + 1)
        else:
            runs.append(_LayerRun(stored, index, index + 1))
    return runs
