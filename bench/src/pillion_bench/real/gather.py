"""Pooled states of the rows that somebody else reads: one pass serves probes and closed forms.

Knows sources of states, no labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pillion.core.batching import batches_by_length
from pillion.extract import Progress, StateSource, silent
from pillion.probe.network import inverse_rms_by_layer
from pillion_bench.states import pooled

GATHER_TOKENS = 2048


class Gathering:
    """A source of states that keeps, of every row that is read from it, what fits in memory.

    Args:
        source: where the states come from, of the tokens that are read.
        whole: the last layer's states of whole rows, where others are not read; None where all are.

    Attributes:
        means: mean over tokens of each layer's RMS-normalised states.
    """

    def __init__(self, source: StateSource, whole: StateSource | None = None) -> None:
        self.source, self._whole, self._was_run = source, whole, False
        self.lengths, self.layers, self.dim = source.lengths, source.layers, source.dim
        self.reads_ahead = False
        rows = len(source.lengths)
        self.means: Float[np.ndarray, "row layer dim"] = np.zeros(
            (rows, len(source.layers), source.dim), dtype=np.float16
        )
        self._last: Float[Tensor, "row dim"] = torch.zeros(rows, source.dim)

    def read_batch(self, row_ids: Sequence[int], workspace: object = None) -> tuple[Tensor, Tensor]:
        """From the source; see `StateSource.read_batch`."""
        hidden, mask = self.source.read_batch(row_ids)
        counts = mask.sum(1)
        weights = inverse_rms_by_layer(hidden) * mask / counts.clamp(min=1)[:, None]
        for place, layer in enumerate(hidden):
            means = torch.einsum("bt,btd->bd", weights[place], layer.float())
            self.means[list(row_ids), place] = means.cpu().numpy()
        if self._whole is None:
            rows = torch.arange(len(row_ids))
            # The last position that holds a token, on whichever side the padding is.
            places = (mask * torch.arange(1, mask.shape[1] + 1)).argmax(1)
            self._last[list(row_ids)] = hidden[-1, rows, places].float().cpu()
        return hidden, mask

    def last_states(self, progress: Progress = silent) -> Float[Tensor, "row dim"]:
        """The last layer's state of each row's last token, as the vocabulary's head reads it.

        Where not all tokens are read this takes a pass of its own, once.
        """
        if self._whole is not None and not self._was_run:
            self._last = torch.from_numpy(pooled(self._whole, "last", progress)[:, 0])
            self._was_run = True
        return self._last

    def read_all(self, progress: Progress = silent) -> None:
        """Reads every row, for what is kept alone."""
        done, total = 0, sum(self.lengths)
        for row_ids in batches_by_length(self.lengths, GATHER_TOKENS):
            self.read_batch(row_ids)
            done += sum(self.lengths[row] for row in row_ids)
            progress("gather", done, total)
