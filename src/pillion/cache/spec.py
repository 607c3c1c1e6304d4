"""What a cache is for, and how its rows are cut into shards.

Promises that equal specs give equal shards, on any machine. Does not touch the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise

import torch

from pillion.core import Scope
from pillion.errors import ConfigError, unknown_name

SHARD_BYTES = 256 * 2**20

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


SegmentFacts = tuple[int, int, str, int, str]
"""First token and the one behind the last, role, turn, kind."""


@dataclass(frozen=True)
class Shard:
    """Consecutive rows that share a file.

    Attributes:
        shard_id: place among the shards of its spec.
        row_ids: the rows, by their place in the data.
        lengths: tokens of each of these rows.
    """

    shard_id: int
    row_ids: range
    lengths: Sequence[int]


@dataclass(frozen=True)
class CacheSpec:
    """What a cache holds, known before the first state is computed.

    Attributes:
        key: identity of model, template and texts, as the caller defines it.
        layers: the layers of every row, in the order in which they are stored.
        dim: width of a state.
        dtype: of the stored states, a name in `DTYPES`.
        lengths: tokens of every row; an array of many rows takes the least memory.
        shard_bytes: most bytes of states in a shard, unless a single row has more.
        scope: whose tokens are kept.
        segments: of every row, the turns of its kept tokens; none for texts without turns.

    Raises:
        ConfigError: an unknown dtype, no or repeated layers, or a number out of range.
    """

    key: str
    layers: tuple[int, ...]
    dim: int
    dtype: str
    lengths: Sequence[int]
    shard_bytes: int = SHARD_BYTES
    scope: Scope = "all"
    segments: Sequence[tuple[SegmentFacts, ...]] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise unknown_name("cache dtype", self.dtype, DTYPES)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ConfigError(f"A cache wants one or more different layers, got {self.layers}.")
        if self.dim < 1 or self.shard_bytes < 1:
            raise ConfigError(
                f"Width and shard size must be positive, got {self.dim} and {self.shard_bytes}."
            )
        if min(self.lengths, default=0) < 0:
            raise ConfigError(f"A row cannot have {min(self.lengths)} tokens; give 0 or more.")

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in one layer."""
        return self.dim * DTYPES[self.dtype].itemsize

    @property
    def num_bytes(self) -> int:
        """Bytes of all states, without file headers."""
        return sum(self.lengths) * len(self.layers) * self.token_bytes

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All rows in order, as many to a shard as `shard_bytes` allows and at least one."""
        cuts = [*self._first_rows(), len(self.lengths)]
        return tuple(
            Shard(shard_id, range(start, stop), self.lengths[start:stop])
            for shard_id, (start, stop) in enumerate(pairwise(cuts))
        )

    def differences(self, other: CacheSpec) -> str:
        """What differs, as `layers: (1, 2) there, (1, 3) here`; empty for equal specs.

        Args:
            other: the spec that is wanted here, `self` being the one that lies there.
        """
        return "; ".join(
            f"{_NAMES.get(field.name, field.name)}: {_brief(there)} there, {_brief(here)} here"
            for field in fields(self)
            if (there := getattr(self, field.name)) != (here := getattr(other, field.name))
        )

    def _first_rows(self) -> Iterator[int]:
        token_bytes = len(self.layers) * self.token_bytes
        used_bytes = 0
        for row_id, length in enumerate(self.lengths):
            row_bytes = length * token_bytes
            if row_id == 0 or used_bytes + row_bytes > self.shard_bytes:
                yield row_id
                used_bytes = 0
            used_bytes += row_bytes


_NAMES = {"key": "texts, template or model", "lengths": "tokens of each row"}


def _brief(value: object) -> str:
    # The lengths of a large data set would bury the message.
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:20]}..."
