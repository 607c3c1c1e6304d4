"""Rows of token ids as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def pad_batch(
    rows: Sequence[Sequence[int]],
) -> tuple[Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]:
    """Rows of token ids as one batch, padded on the left, and its mask."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row)
        mask[i, longest - len(row) :] = True
    return ids, mask
