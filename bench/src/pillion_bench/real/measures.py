"""Numbers of every method on every set, with intervals, as entries of a result file.

Promises None where a number is undefined. Knows no method's insides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from pillion.metrics import decide, evaluate, intervals, leading_metric, paired_interval
from pillion.probe.task import Task
from pillion_bench.real.answers import Answer
from pillion_bench.real.sets import TextSet

NUM_RESAMPLES = 200
SHOWN = ("accuracy", "f1", "auprc", "auroc", "tpr_at_fpr_1", "ece")


def all_results(
    answers: Sequence[Answer], sets: Sequence[TextSet], task: Task, seed: int
) -> list[dict[str, Any]]:
    """Every method on every set; the first answer is the probe's, the first set is the test.

    Args:
        answers: one a method.
        sets: in the order of the page.
        task: what probabilities mean.
        seed: of the resamples.
    """
    found: list[dict[str, Any]] = []
    for one in sets:
        for answer in answers:
            place = {"step": one.step, "set": one.name, "method": answer.method}
            found += [{**place, **entry} for entry in _numbers(answer, one, task, seed)]
            found += [{**place, **entry} for entry in _groups(answer, one, task)]
            if one.step == "perturbation":
                found.append({**place, **_changed(answer, one, sets[0], task)})
        if one.step in ("test", "other"):
            found += _differences(answers, one, task, seed)
    return found


def without_duplicates(
    answers: Sequence[Answer], test: TextSet, duplicate: Bool[np.ndarray, " row"], task: Task
) -> list[dict[str, Any]]:
    """The test without rows that stand in the training set, by every method."""
    kept = ~duplicate
    found: list[dict[str, Any]] = []
    for answer in answers if kept.any() else ():
        probs = answer.by_set[test.name][kept]
        numbers = evaluate(probs, test.targets[kept], task, answer.thresholds)
        place = {"step": "duplicates", "set": "test without duplicates", "method": answer.method}
        found += [
            {**place, "metric": name, "value": numbers[name], "rows": int(kept.sum())}
            for name in ("accuracy", "f1", "auprc")
        ]
    return found


def _numbers(answer: Answer, one: TextSet, task: Task, seed: int) -> list[dict[str, Any]]:
    """All metrics, with intervals."""
    probs = answer.by_set[one.name]

    def measured(p: np.ndarray, t: np.ndarray) -> dict[str, float | None]:
        return _with_rates(p, t, task, answer.thresholds)

    around = intervals(measured, probs, one.targets, num_resamples=NUM_RESAMPLES, seed=seed)
    facts = {"rows": len(one)}
    if task == "binary":
        facts["positives"] = int(one.targets.sum())
    return [
        {
            "metric": name,
            "value": None if ends is None else ends.estimate,
            "interval": None if ends is None else [ends.low, ends.high],
            **facts,
        }
        for name, ends in around.items()
    ]


def _with_rates(
    probs: np.ndarray, targets: np.ndarray, task: Task, thresholds: tuple[float, ...] | None
) -> dict[str, float | None]:
    found = evaluate(probs, targets, task, thresholds, SHOWN)
    if task == "binary":
        chosen = decide(probs, task, thresholds)[:, 0]
        for name, side in (("fpr", 0), ("recall", 1)):
            among = targets == side
            found[name] = float(chosen[among].mean()) if among.any() else None
    return found


def _groups(answer: Answer, one: TextSet, task: Task) -> list[dict[str, Any]]:
    """Of each group the share that is decided right, and for binary the share decided positive."""
    names = np.array(one.groups)
    found: list[dict[str, Any]] = []
    for group in dict.fromkeys(one.groups):
        inside = names == group
        probs, targets = answer.by_set[one.name][inside], one.targets[inside]
        facts: dict[str, Any] = {"group": group, "rows": int(inside.sum())}
        right = evaluate(probs, targets, task, answer.thresholds)["accuracy"]
        found.append({**facts, "metric": "accuracy", "value": right})
        if task == "binary":
            share = float(decide(probs, task, answer.thresholds).mean())
            truth = float(targets.mean())
            found.append(
                {**facts, "metric": "decided_positive", "value": share, "labelled_positive": truth}
            )
    return found


def _changed(answer: Answer, one: TextSet, test: TextSet, task: Task) -> dict[str, Any]:
    """The share of decisions that the change of the text turned over."""
    now = decide(answer.by_set[one.name], task, answer.thresholds)
    before = decide(answer.by_set[test.name][one.rows], task, answer.thresholds)
    share = float((now != before).any(axis=1).mean())
    return {"metric": "decisions_changed", "value": share, "rows": len(one)}


def _differences(
    answers: Sequence[Answer], one: TextSet, task: Task, seed: int
) -> list[dict[str, Any]]:
    """The probe's AUPRC (multi-class: accuracy) minus each other method's, on the same rows."""
    name = leading_metric(task)

    def metric(probs: np.ndarray, targets: np.ndarray) -> float | None:
        return evaluate(probs, targets, task, names=(name,))[name]

    found: list[dict[str, Any]] = []
    for other in answers[1:]:
        pair = (answers[0].by_set[one.name], other.by_set[one.name])
        around = paired_interval(metric, *pair, one.targets, num_resamples=NUM_RESAMPLES, seed=seed)
        found.append(
            {
                "step": one.step,
                "set": one.name,
                "method": answers[0].method,
                "metric": f"{name}_minus",
                "baseline": other.method,
                "value": None if around is None else around.estimate,
                "interval": None if around is None else [around.low, around.high],
                "rows": len(one),
            }
        )
    return found
