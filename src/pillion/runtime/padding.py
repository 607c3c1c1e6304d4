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
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    mask = torch.arange(longest) >= longest - lengths[:, None]
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    # At once: a tensor a row takes longer than what a small model does with it.
    ids[mask] = torch.tensor([one for row in rows for one in row], dtype=torch.long)
    return ids, mask
