"""A live pass: hidden states from the model on the spot, nothing on disk.

Promises what a cache of the same rows would give, up to float rounding. Costs a forward pass for
every read; what rows of a batch begin with in common is run once. Does not know labels or probes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pillion.backends import Backend
from pillion.cache import DTYPES, Workspace
from pillion.core import Scope
from pillion.errors import StateError
from pillion.extract.collector import Collector, run_batch
from pillion.extract.fill import places_together
from pillion.extract.scoped import num_kept
from pillion.extract.source import Batch


class LiveSource:
    """Rows that are run through the model whenever they are read.

    Args:
        backend: the model.
        token_ids: of every row.
        layers: those to read, in this order.
        scope: whose tokens' states are read.
    """

    # A model on the same processor would only get in the way of what is computed meanwhile.
    reads_ahead = False

    def __init__(
        self,
        backend: Backend,
        token_ids: Sequence[Sequence[int]],
        layers: Sequence[int],
        scope: Scope = "all",
    ) -> None:
        self.backend, self.token_ids = backend, token_ids
        self.scope: Scope = scope
        self.layers = tuple(layers)
        self.dim = backend.identity.dim
        self.lengths: Sequence[int] = [num_kept(row, scope) for row in token_ids]

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        """From the model; see `StateSource.read_batch`.

        Raises:
            StateError: a state is not finite; the message names row, token and layer.
        """
        lengths = [self.lengths[row_id] for row_id in row_ids]
        shape = (len(self.layers), len(lengths), max(lengths, default=0), self.dim)
        hidden = (workspace or Workspace()).take(shape, DTYPES[self.backend.identity.dtype])
        mask = torch.arange(shape[2]) < torch.tensor(lengths, dtype=torch.int64)[:, None]
        blocks = [hidden[:, place, :length] for place, length in enumerate(lengths)]
        rows = {row_id: self.token_ids[row_id] for row_id in row_ids}
        collector = Collector(self.layers)
        with self.backend.watch(collector, self.layers):
            for batch in places_together(row_ids, lengths, rows, self.scope):
                some, own = [rows[row_ids[i]] for i in batch], [blocks[i] for i in batch]
                run_batch(self.backend, collector, some, own, self.scope)
        for place, length in enumerate(lengths):
            hidden[:, place, length:].zero_()
            self._check_finite(row_ids[place], blocks[place])
        return hidden, mask

    def _check_finite(self, row_id: int, hidden: torch.Tensor) -> None:
        # Both extremes are finite only if all is, and are found faster.
        if hidden.numel() and not bool(torch.stack(torch.aminmax(hidden)).isfinite().all()):
            first: list[int] = torch.nonzero(~torch.isfinite(hidden))[0].tolist()
            layer = self.layers[first[0]]
            raise StateError(
                f"The hidden state of row {row_id}, token {first[1]}, layer {layer} is "
                "not finite; run the model in bfloat16 or float32, or leave the row out."
            )
