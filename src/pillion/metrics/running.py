"""How soon a running score finds what it is for, and how often it stops what it should not.

A running score has one value a token of an answer. A rule that stops answers looks at every one of
them, so what counts is the largest. Pure functions of arrays; what is undefined is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Running = Sequence[Float[np.ndarray, " _token"]]
"""One array a row, of one token or more; rows may differ in length."""

EARLY_TOKENS = 32
"""Tokens within which a stop still spares the reader most of an answer."""


def after(running: Running, tokens: int) -> Float[np.ndarray, " row"]:
    """The score after so many tokens; that of a shorter row is its last."""
    return np.array([scores[min(tokens, len(scores)) - 1] for scores in running])


def largest(running: Running) -> Float[np.ndarray, " row"]:
    """The largest score that a row ever has."""
    return np.array([scores.max() for scores in running])


def tokens_until(running: Running, threshold: float) -> Int[np.ndarray, " row"]:
    """Tokens until the score first reaches the threshold, from 1; 0 where it never does."""
    reached = [scores >= threshold for scores in running]
    return np.array([int(one.argmax()) + 1 if one.any() else 0 for one in reached])


def detection(
    running: Running, targets: Shaped[np.ndarray, " row"], threshold: float
) -> dict[str, Any]:
    """What stopping at a threshold gives.

    Args:
        running: of every row.
        targets: one where the row has the label, else zero; NaN where not judged.
        threshold: of the stop.

    Returns:
        `found`, the share of rows with the label that are stopped at all; `found_early`, within
        `EARLY_TOKENS`; `tokens_until_found`, the median of those found; `false_stops`, the share of
        rows without the label that are stopped.
    """
    until = tokens_until(running, threshold)
    true, false = until[targets == 1], until[targets == 0]
    is_found = true.astype(bool)
    found = true[is_found]
    return {
        "found": _share(is_found),
        "found_early": _share(np.where(is_found, true <= EARLY_TOKENS, False)),
        "tokens_until_found": float(np.median(found)) if len(found) else None,
        "false_stops": _share(false.astype(bool)),
    }


def _share(hits: Bool[np.ndarray, " row"]) -> float | None:
    return float(hits.mean()) if len(hits) else None
