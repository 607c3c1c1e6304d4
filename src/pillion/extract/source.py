"""Where training gets hidden states from: one contract for a cache and for a live pass.

Promises padded batches of any rows in any order. Does not know labels or probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.cache import CacheReader, Workspace

Batch = tuple[Float[Tensor, "layer batch token dim"], Bool[Tensor, "batch token"]]
"""States, padded on the right, and the mask of their tokens."""


@runtime_checkable
class StateSource(Protocol):
    """The hidden states of many rows."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of every row."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are read, in the order of the tensors."""
        ...

    @property
    def dim(self) -> int:
        """Width of a state."""
        ...

    @property
    def reads_ahead(self) -> bool:
        """Whether reading while something else computes gains time (a disk) or loses it."""
        ...

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        """The states of several rows, padded on the right, and the mask of their tokens.

        Args:
            row_ids: in any order.
            workspace: memory to use again; the states are then valid until its next use.
        """
        ...


class CachedSource:
    """The rows of a cache as a source.

    Args:
        reader: of a complete cache; stays the caller's to close.
    """

    reads_ahead = True

    def __init__(self, reader: CacheReader) -> None:
        self.reader = reader
        self.lengths: Sequence[int] = reader.spec.lengths
        self.layers = reader.layers
        self.dim = reader.spec.dim

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        """From the disk; see `StateSource.read_batch`."""
        return self.reader.read_batch(row_ids, workspace)


class SelectedRows:
    """Some rows of another source, counted anew from 0.

    Args:
        source: where the states come from.
        row_ids: the rows of it that count, such as one side of a split.
    """

    def __init__(
        self, source: StateSource, row_ids: Sequence[int] | Int[np.ndarray, " row"]
    ) -> None:
        self.source = source
        self.row_ids = [int(row_id) for row_id in row_ids]
        self.lengths: Sequence[int] = [source.lengths[row_id] for row_id in self.row_ids]
        self.layers = source.layers
        self.dim = source.dim
        self.reads_ahead = source.reads_ahead

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        """From the other source; see `StateSource.read_batch`."""
        return self.source.read_batch([self.row_ids[row_id] for row_id in row_ids], workspace)
