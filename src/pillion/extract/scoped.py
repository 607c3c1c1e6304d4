"""Which tokens' states are kept: those of a scope, in the order of the row.

States stay contextual: the whole row runs, up to the last token that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pillion.cache import Workspace
from pillion.core import Scope, Tokens, as_tokens
from pillion.extract.source import Batch, CachedSource


def num_kept(row: Sequence[int], scope: Scope) -> int:
    """Tokens of a row that a scope reads."""
    return len(row) if scope == "all" else sum(map(len, as_tokens(row).ranges(scope)))


def kept_places(row: Sequence[int], scope: Scope) -> Int[Tensor, " kept"]:
    """Their places in the row, ascending."""
    ranges = as_tokens(row).ranges(scope)
    parts = [torch.arange(part.start, part.stop) for part in ranges]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def read_part(row: Sequence[int], scope: Scope) -> Sequence[int]:
    """The row up to the last token that a scope reads: no state depends on what comes behind."""
    ranges = as_tokens(row).ranges(scope)
    return row[: ranges[-1].stop] if ranges else ()


class ScopedRows:
    """The states of a scope, of a source that holds those of all tokens.

    Args:
        source: of every token of the rows.
        rows: with their turns.
        scope: what is read.
    """

    def __init__(self, source: CachedSource, rows: Sequence[Tokens], scope: Scope) -> None:
        self.source, self.rows = source, rows
        self.scope: Scope = scope
        self.reader = source.reader
        self.lengths: Sequence[int] = source.lengths  # what a batch takes in memory
        self.layers, self.dim = source.layers, source.dim
        self.reads_ahead = source.reads_ahead

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        """All states, and the mask of the tokens that count; see `StateSource.read_batch`."""
        hidden, mask = self.source.read_batch(row_ids, workspace)
        read: Bool[Tensor, "batch token"] = torch.zeros_like(mask)
        for place, row_id in enumerate(row_ids):
            read[place, kept_places(self.rows[row_id], self.scope)] = True
        return hidden, read & mask
