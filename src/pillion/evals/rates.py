"""What thresholds and bands give on labelled rows: rates with intervals, escalations, costs.

Promises JSON values; None where the rows leave a number undefined. Chooses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pillion.evals.operating import Operating, columns, threshold
from pillion.metrics import evaluate, interval
from pillion.metrics.curves import share_interval
from pillion.probe.decisions import Band
from pillion.probe.task import Task

NUM_RESAMPLES = 200


def describe_thresholds(
    wanted: Operating,
    task: Task,
    probs: np.ndarray,
    targets: np.ndarray,
    thresholds: Sequence[float] | None,
    names: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """For each output its threshold, where the rule puts it in resamples, and its rates.

    Args:
        wanted: with the rule, if there is one.
        task: what the probabilities mean.
        probs: (row, output).
        targets: label ids, or 0/1 a label.
        thresholds: one an output; None for a multi-class probe without.
        names: label of each output.
        seed: of the resamples.
    """
    if thresholds is None:
        return []
    each = zip(names, thresholds, columns(task, probs, targets), strict=True)
    return [
        {
            "label": name,
            "threshold": line,
            "threshold_interval": _threshold_interval(wanted, scores, truth, seed),
            **_rates(scores, truth, line),
        }
        for name, line, (scores, truth) in each
    ]


def describe_escalation(
    wanted: Operating,
    task: Task,
    probs: np.ndarray,
    targets: np.ndarray,
    thresholds: Sequence[float] | None,
    bands: Sequence[Band] | None,
) -> dict[str, Any] | None:
    """The share of rows that are handed on, how the others are decided, and what both cost.

    Costs are a row of all rows; what decides in the probe's place is taken to be right. None
    without bands. Arguments are those of `describe_thresholds`.
    """
    if bands is None:
        return None
    handed_on = undecided(task, probs, bands)
    found = _share("share", handed_on)
    kept = ~handed_on
    found["decided"] = evaluate(probs[kept], targets[kept], task, thresholds)
    if wanted.cost_escalation is not None:
        found["cost_of_escalation"] = float(handed_on.mean() * wanted.cost_escalation)
    if wanted.cost_fp is not None and task != "multiclass":
        assert thresholds is not None
        errors = _error_costs(wanted, task, probs, targets, thresholds)
        found["cost_of_errors_alone"] = float(errors.mean())
        found["cost_of_errors"] = float((errors * kept).mean())
    return found


def undecided(task: Task, probs: np.ndarray, bands: Sequence[Band]) -> np.ndarray:
    """Which rows are left undecided, as `pillion.probe.decisions.abstains` says of one."""
    low, high = np.array(bands).T
    inside = (probs >= low) & (probs < high)
    if task == "multiclass":
        return np.take_along_axis(inside, probs.argmax(axis=1)[:, None], axis=1)[:, 0]
    return inside.any(axis=1)


def _threshold_interval(
    wanted: Operating, scores: np.ndarray, truth: np.ndarray, seed: int
) -> list[float] | None:
    if not wanted.rules:
        return None

    def rule(scores: np.ndarray, truth: np.ndarray) -> float | None:
        return threshold(wanted, scores, truth)

    found = interval(rule, scores, truth, num_resamples=NUM_RESAMPLES, seed=seed)
    return None if found is None else [found.low, found.high]


def _rates(scores: np.ndarray, truth: np.ndarray, line: float) -> dict[str, Any]:
    chosen = scores >= line
    rates = {"fpr": (truth == 0, chosen), "recall": (truth == 1, chosen)}
    rates["precision"] = (chosen, truth == 1)
    found: dict[str, Any] = {}
    for name, (among, hits) in rates.items():
        found |= _share(name, hits[among])
    return found


def _share(name: str, hits: np.ndarray) -> dict[str, Any]:
    share = float(hits.mean()) if len(hits) else None
    return {name: share, f"{name}_interval": share_interval(int(hits.sum()), len(hits))}


def _error_costs(
    wanted: Operating,
    task: Task,
    probs: np.ndarray,
    targets: np.ndarray,
    thresholds: Sequence[float],
) -> np.ndarray:
    """What each row costs if the probe decides it."""
    assert wanted.cost_fp is not None and wanted.cost_fn is not None
    costs = np.zeros(len(probs))
    each = zip(thresholds, probs.T, targets.reshape(probs.shape).T, strict=True)
    for line, scores, truth in each:  # a label that was not judged is NaN and costs nothing
        chosen = scores >= line
        costs += wanted.cost_fp * (chosen & (truth == 0))
        costs += wanted.cost_fn * (~chosen & (truth == 1))
    return costs
