"""How good a probe is at each of its labels, with intervals over draws of the rows.

Knows no model and draws nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from pillion.metrics import decide, evaluate
from pillion.metrics.curves import share_interval
from pillion.probe import Card

NUM_RESAMPLES = 200
CURVES = ("auprc", "auroc")


def by_label(
    card: Card,
    probs: Float[np.ndarray, "row output"],
    targets: Shaped[np.ndarray, "row ..."],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows, precision, recall, F1, AUPRC and AUROC of every label; None where undefined.

    Precision, recall and F1 come with a 95 % interval (`precision_interval`, ...) at the thresholds
    of the card: the first two by Wilson's (1927) score, F1 by the bootstrap over rows, and without
    one where every draw is the same.

    Args:
        card: of the probe.
        probs: of the rows.
        targets: label ids, or 0/1 a label for a multi-label probe; NaN where it was not judged.
        seed: of the draws.
    """
    names = card.labels[1:] if card.task == "binary" else card.labels
    chosen = decide(probs, card.task, card.thresholds)
    truth = np.eye(len(names))[targets] if card.task == "multiclass" else targets
    truth = truth.reshape(chosen.shape).astype(np.float64)
    judged = ~np.isnan(truth)
    true, given = (truth == 1) & judged, (chosen == 1) & judged
    hits, drawn = true & given, _drawn_f1(true, given, seed)
    found: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        own = judged[:, i]
        curves = evaluate(probs[own, i : i + 1], true[own, i].astype(int), "binary", names=CURVES)
        rows, decided, right = (int(part[:, i].sum()) for part in (true, given, hits))
        found.append(
            {
                "label": name,
                "rows": rows,
                "precision": right / decided if decided else None,
                "precision_interval": share_interval(right, decided),
                "recall": right / rows if rows else None,
                "recall_interval": share_interval(right, rows),
                "f1": 2 * right / (rows + decided) if rows else None,
                "f1_interval": _spread(drawn[:, i]),
                **curves,
            }
        )
    return found


def _drawn_f1(true: np.ndarray, given: np.ndarray, seed: int) -> Float[np.ndarray, "draw output"]:
    """F1 of every label on `NUM_RESAMPLES` draws of the rows; NaN where undefined."""
    num_rows, rng = len(true), np.random.default_rng(seed)
    hits, total = ((part.T).astype(np.float32) for part in (true & given, true + 0.0 + given))
    positive = true.T.astype(np.float32)
    found = list[np.ndarray]()
    for _ in range(NUM_RESAMPLES):
        counts = np.bincount(rng.integers(num_rows, size=num_rows), minlength=num_rows)
        drawn = counts.astype(np.float32)
        f1 = 2 * (hits @ drawn) / np.maximum(total @ drawn, 1)
        found.append(np.where(positive @ drawn > 0, f1, np.nan).astype(np.float64))
    return np.stack(found)


def _spread(draws: np.ndarray) -> list[float] | None:
    known = draws[~np.isnan(draws)]
    if not len(known) or known.min() == known.max():
        return None
    return [float(end) for end in np.quantile(known, [0.025, 0.975])]
