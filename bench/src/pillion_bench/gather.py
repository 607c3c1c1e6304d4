"""Pooled states of rows that are being read: what is asked for later needs no second pass.

Knows sources of states, no labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.core.batching import batches_by_length
from pillion.extract import Progress, StateSource, pool_batch

GATHER_TOKENS = 2048


class Gathering:
    """A source of states that pools every row that is read from it.

    Args:
        source: where the states come from.
    """

    reads_ahead = False

    def __init__(self, source: StateSource) -> None:
        self.source = source
        self.lengths, self.layers, self.dim = source.lengths, source.layers, source.dim
        rows = len(source.lengths)
        self._is_read = torch.zeros(rows, dtype=torch.bool)
        self._means = torch.zeros(len(self.layers), rows, self.dim, dtype=torch.float16)
        self._last = torch.zeros(rows, self.dim)

    def read_batch(self, row_ids: Sequence[int], workspace: object = None) -> tuple[Tensor, Tensor]:
        """From the source; see `StateSource.read_batch`."""
        rows = list(row_ids)
        hidden, mask = self.source.read_batch(rows)
        self._means[:, rows] = pool_batch(hidden, mask, "mean-rms").half().cpu()
        self._last[rows] = pool_batch(hidden[-1:], mask, "last")[0].cpu()
        self._is_read[rows] = True
        return hidden, mask

    def means(
        self, row_ids: Int[np.ndarray, " some"], progress: Progress
    ) -> Float[Tensor, "some layer dim"]:
        """Means over tokens of RMS-normalised states, in fp16."""
        self._read(row_ids, progress)
        return self._means[:, row_ids].transpose(0, 1)

    def last(
        self, row_ids: Int[np.ndarray, " some"], progress: Progress
    ) -> Float[Tensor, "some dim"]:
        """The highest layer's state of each row's last token."""
        self._read(row_ids, progress)
        return self._last[row_ids]

    def _read(self, row_ids: Int[np.ndarray, " some"], progress: Progress) -> None:
        """Reads those rows that were not read yet, for what is kept alone."""
        rows = [int(row) for row in row_ids if not self._is_read[int(row)]]
        lengths = [self.lengths[row] for row in rows]
        done, total = 0, sum(lengths)
        for batch in batches_by_length(lengths, GATHER_TOKENS):
            self.read_batch([rows[place] for place in batch])
            done += sum(lengths[place] for place in batch)
            progress("gather", done, total)
