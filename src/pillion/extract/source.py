"""Where training gets hidden states from: one contract for a cache and for a live pass.

Promises padded batches of any rows in any order. Does not know labels or probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.cache import DTYPES, CacheReader, Workspace

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
        self.dtype = DTYPES[reader.spec.dtype]

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


class JoinedRows:
    """The rows of two sources, one after the other.

    Args:
        first: whose rows keep their numbers.
        second: whose rows follow; of the same layers and width.
    """

    def __init__(self, first: StateSource, second: StateSource) -> None:
        assert (first.layers, first.dim) == (second.layers, second.dim), "states of one kind"
        self.first, self.second = first, second
        self.lengths: Sequence[int] = [*first.lengths, *second.lengths]
        self.layers, self.dim = first.layers, first.dim
        self.reads_ahead = first.reads_ahead and second.reads_ahead

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        """From either source; see `StateSource.read_batch`."""
        ahead = len(self.first.lengths)
        own = [place for place, row_id in enumerate(row_ids) if row_id < ahead]
        others = [place for place, row_id in enumerate(row_ids) if row_id >= ahead]
        if not others:
            return self.first.read_batch(row_ids, workspace)
        if not own:
            return self.second.read_batch([row_id - ahead for row_id in row_ids], workspace)
        parts = [
            (own, self.first.read_batch([row_ids[place] for place in own])),
            (others, self.second.read_batch([row_ids[place] - ahead for place in others])),
        ]
        longest = max(states.shape[2] for _, (states, _) in parts)
        shape = (len(self.layers), len(row_ids), longest, self.dim)
        hidden = (workspace or Workspace()).take(shape, parts[0][1][0].dtype).zero_()
        mask = torch.zeros(shape[1:3], dtype=torch.bool)
        for places, (states, seen) in parts:
            hidden[:, places, : states.shape[2]] = states
            mask[places, : states.shape[2]] = seen
        return hidden, mask
