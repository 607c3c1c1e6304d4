"""Which of two ways to probabilities is better, on rows that neither was fitted on.

Both rules are proper: only true probabilities make them smallest (Gneiting and Raftery 2007).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from pillion.metrics import evaluate, log_loss
from pillion.probe.task import Task


def compare(
    task: Task,
    present: Float[np.ndarray, "row output"],
    new: Float[np.ndarray, "row output"],
    targets: Shaped[np.ndarray, "row ..."],
) -> dict[str, Any]:
    """Log-loss and Brier score of both, and whether the new one is better in both.

    Args:
        task: what probabilities mean.
        present: probabilities as they are.
        new: by a calibration that was fitted on other rows.
        targets: label ids, or 0/1 a label for a multi-label probe.
    """
    before, after = (_scores(task, probs, targets) for probs in (present, new))
    better = all(after[name] < before[name] for name in before)
    return {"present": before, "new": after, "kept": "new" if better else "present"}


def _scores(task: Task, probs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    brier = evaluate(probs, targets, task, names=("brier",))["brier"]
    assert brier is not None
    return {"log_loss": log_loss(probs, targets, task), "brier": brier}
