"""Which tokens' states are kept: those of a scope, in the order of the row.

States stay contextual: the whole row runs, up to the last token that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
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

    Its rows are those that a cache of the scope alone would have: what is learnt from either, in
    which batches and from which prefixes, is the same.

    Args:
        source: of every token of the rows.
        rows: with their turns.
        scope: what is read.
    """

    def __init__(self, source: CachedSource, rows: Sequence[Tokens], scope: Scope) -> None:
        self.source, self.rows = source, rows
        self.scope: Scope = scope
        self.reader = source.reader
        self.lengths: Sequence[int] = [num_kept(row, scope) for row in rows]
        self.layers, self.dim = source.layers, source.dim
        self.reads_ahead = source.reads_ahead

    def read_batch(self, row_ids: Sequence[int], workspace: Workspace | None = None) -> Batch:
        """The scope's states, one after the other; see `StateSource.read_batch`."""
        lengths = torch.tensor([self.lengths[row_id] for row_id in row_ids], dtype=torch.int64)
        longest = int(lengths.max()) if len(lengths) else 0
        shape, dtype = (len(self.layers), len(lengths), longest, self.dim), self.source.dtype
        hidden, whole = (workspace or Workspace()).take(shape, dtype), Workspace()
        for place, row_id in enumerate(row_ids):
            # One row at a time: of a long one a scope may read few tokens.
            states, _ = self.source.read_batch([row_id], whole)
            kept = kept_places(self.rows[row_id], self.scope)
            hidden[:, place, : len(kept)] = states[:, 0, kept]
            hidden[:, place, len(kept) :].zero_()
        return hidden, torch.arange(longest) < lengths[:, None]
