"""The log-loss of probabilities: how surprising the true labels are, in nats a row or label."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped


def log_loss(
    probs: Float[np.ndarray, "row output"], targets: Shaped[np.ndarray, "row ..."], task: str
) -> float:
    """Mean negative log of the probability of what is true (Good 1952).

    A probability counts as no surer than this many rows can show, 1 / (rows + 2): a calibration
    that says 0 or 1 of rows like these is then not infinitely wrong once it errs.

    Args:
        probs: binary: one column, of the positive label.
        targets: (row,) ids, or (row, output) of 0 or 1, NaN where not judged.
        task: `binary`, `multiclass` or `multilabel`.
    """
    least = 1 / (len(probs) + 2)
    if task == "multiclass":
        true = probs[np.arange(len(probs)), targets]
    else:
        truth = targets.reshape(probs.shape)
        true = np.where(truth, probs, 1 - probs)[~np.isnan(truth)]
    return float(0.0 - np.log(np.maximum(true, least)).mean())  # never -0.0
