"""Token rows whose label stands in them: what a probe on any model can learn."""

from __future__ import annotations

import numpy as np


def marked_rows(
    num_rows: int,
    seed: int,
    tokens: tuple[int, int],
    marks: tuple[int, int] = (100, 103),
    within: int | None = None,
) -> tuple[list[list[int]], np.ndarray]:
    """Rows of bytes below 50 and their targets: every second row holds one mark, and is positive.

    Args:
        num_rows: rows.
        seed: of all that is drawn.
        tokens: fewest of a row, and one more than the most.
        marks: the least, and one more than the greatest.
        within: so many first tokens, one of which the mark is; None: any token.
    """
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 50, size=random.integers(*tokens)).tolist() for _ in range(num_rows)]
    targets = np.arange(num_rows) % 2
    for row, target in zip(rows, targets, strict=True):
        if target:
            row[random.integers(within or len(row))] = int(random.integers(*marks))
    return rows, targets
