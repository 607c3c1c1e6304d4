"""The file of a shard: its name, its header and its size, all known before the first state.

Promises a valid safetensors file with two flat tensors, `offsets` (int64, first element of every
row, and the end) and `states` (row after row, each [layer, token, dim]). Does not know which files
exist.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from pillion.cache.spec import CacheSpec, Shard

_DTYPE_CODES = {"bfloat16": "BF16", "float32": "F32", "float16": "F16"}


@dataclass(frozen=True)
class ShardFile:
    """The file of a shard as it has to be.

    Attributes:
        name: carries the identity of the contents.
        prefix: the bytes before the first state.
        num_bytes: size of the whole file.
    """

    name: str
    prefix: bytes
    num_bytes: int

    def is_whole(self, file: FileIO) -> bool:
        """Whether an open file has the size and the header that it has to have."""
        return (
            os.fstat(file.fileno()).st_size == self.num_bytes
            and os.pread(file.fileno(), len(self.prefix), 0) == self.prefix
        )

    def lies_in(self, folder: Path) -> bool:
        """Whether a folder has the whole file."""
        try:
            with open(folder / self.name, "rb", buffering=0) as file:
                return self.is_whole(file)
        except FileNotFoundError:
            return False


def shard_file(spec: CacheSpec, shard: Shard) -> ShardFile:
    """The file that holds a shard of a cache."""
    prefix = _prefix(spec, shard)
    state_bytes = sum(shard.lengths) * len(spec.layers) * spec.token_bytes
    # The prefix holds the key, the layers, the rows and their lengths: equal hash, equal contents.
    identity = hashlib.sha256(prefix).hexdigest()[:10]
    name = f"shard-{shard.shard_id:05d}-{identity}.safetensors"
    return ShardFile(name, prefix, len(prefix) + state_bytes)


def _prefix(spec: CacheSpec, shard: Shard) -> bytes:
    offsets = np.zeros(len(shard.lengths) + 1, dtype="<i8")
    np.cumsum(shard.lengths, out=offsets[1:])
    offsets *= len(spec.layers) * spec.dim
    header = json.dumps(_header(spec, shard, offsets.nbytes, int(offsets[-1]))).encode()
    # Blanks at the end of the header keep the tensors aligned to eight bytes.
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + offsets.tobytes()


def _header(
    spec: CacheSpec, shard: Shard, offset_bytes: int, num_elements: int
) -> dict[str, object]:
    # By hand, so that rows stream to the disk: safetensors' own writer wants one joined tensor.
    state_bytes = num_elements * spec.token_bytes // spec.dim
    return {
        "__metadata__": {
            "key": spec.key,
            "layers": json.dumps(spec.layers),
            "dim": str(spec.dim),
            "first_row": str(shard.row_ids.start),
        },
        "offsets": {
            "dtype": "I64",
            "shape": [len(shard.lengths) + 1],
            "data_offsets": [0, offset_bytes],
        },
        "states": {
            "dtype": _DTYPE_CODES[spec.dtype],
            "shape": [num_elements],
            "data_offsets": [offset_bytes, offset_bytes + state_bytes],
        },
    }
