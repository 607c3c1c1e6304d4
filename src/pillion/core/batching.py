"""Which texts run together: batches of similar length under a token budget; pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence


def batches_by_length(
    lengths: Sequence[int], max_tokens: int, max_rows: int = 256
) -> list[list[int]]:
    """Row ids grouped so that padding is small, longest first (memory peaks at the start).

    Args:
        lengths: tokens of every row.
        max_tokens: padded tokens a batch; a single longer row is a batch of its own.
        max_rows: rows a batch.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        # Sorted: the first row of a batch is its longest.
        if batches and len(batches[-1]) < max_rows:
            padded = lengths[batches[-1][0]] * (len(batches[-1]) + 1)
            if padded <= max_tokens:
                batches[-1].append(row)
                continue
        batches.append([row])
    return batches
