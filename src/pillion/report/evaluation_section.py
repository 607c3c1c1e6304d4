"""The section of a probe on a data set: from its result file to tables, charts and examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pillion.metrics.classification import WHY_UNDEFINED
from pillion.metrics.curves import NUM_BINS, pr_points, reliability, roc_points
from pillion.report.charts import Line, bar_chart, line_chart
from pillion.report.numbers import number, spread
from pillion.report.tables import facts

METRICS = {
    "accuracy": "Accuracy",
    "f1": "F1",
    "f1_micro": "F1, micro",
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "tpr_at_fpr_1": "TPR at 1 % FPR",
    "tpr_at_fpr_01": "TPR at 0.1 % FPR",
    "ece": "ECE",
    "brier": "Brier score",
}
MAX_MATRIX = 25
"""Labels up to which the confusion matrix is shown whole; of more the frequent mistakes are."""
MAX_MISTAKES = 30
MAX_THIN_LINES = 12
RATIO, AROUND = "time_with_the_probe_over_bare", "time_interval"
"""Of a cost: the median ratio, and its lowest and highest value."""
OTHER = ", run by another model than its own"
"""Behind the title of numbers that --allow-mismatch gave."""
OPEN_LABELS = 20
"""Labels up to which the table of labels is shown without a click."""


def evaluation_section(content: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `evaluation.html.j2`.

    Args:
        content: of the result file, as `pillion.evals.evaluation` makes it.
    """
    probe = content["settings"]["probe"]
    task, labels = probe["task"], content["labels"]
    probs = np.array(content["predictions"]["probs"], dtype=np.float64)
    # A null, for a label not judged, becomes NaN.
    kind = np.float64 if task == "multilabel" else np.int64
    targets = np.array(content["predictions"]["targets"], dtype=kind)
    data, is_other = content["data"][0], bool(content["settings"].get("mismatch"))
    return {
        "title": f"{probe['name']} on {data['path']}" + (OTHER if is_other else ""),
        "probe": probe,
        "data": data,
        "facts": facts(content),
        "metrics": [
            {
                **entry,
                "name": METRICS.get(entry["metric"], entry["metric"]),
                "why": WHY_UNDEFINED.get(entry["metric"], "") if entry["value"] is None else "",
            }
            for entry in content["results"]
        ],
        "charts": _charts(task, probs, targets, probe["thresholds"]),
        "confusion": _confusion(content, task, labels),
        "per_label": content["per_label"],
        "open_labels": len(content["per_label"]) <= OPEN_LABELS,
        "by_length": content["by_length"],
        "running": content.get("running"),
        "sets": content["sets"],
        "decisions": content["decisions"],
        "undecided": float(np.mean(content["predictions"]["undecided"])),
        "decided": content.get("decided"),
        "own_rows": data["sha256"] in _learnt_from(probe["data"], probe["training"]),
        "examples": {k: v for k, v in content["examples"].items() if v},
        "cost": _cost(content["cost"]),
    }


def _learnt_from(data: Mapping[str, Any], training: Mapping[str, Any]) -> list[str | None]:
    """Digests of the files that a probe was trained on, those of a second fit among them."""
    validation = [data.get("validation_sha256")] if training.get("refit") else []
    return [data["sha256"], *(one["sha256"] for one in data.get("sets") or ()), *validation]


def _cost(cost: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """Name, value and remark of each; a ratio of times that noise hides is left out."""
    found = [(n.replace("_", " "), v, "") for n, v in cost.items() if n not in (RATIO, AROUND)]
    if (interval := cost.get(AROUND)) is None:
        return found
    remark = f"{spread(interval)} in six turns"
    if interval[0] <= 1 <= interval[1]:
        return [*found, (RATIO.replace("_", " "), "not told from 1", remark)]
    return [*found, (RATIO.replace("_", " "), cost[RATIO], remark)]


def events(task: str, probs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Zeros and ones, (row, output), and the probabilities of each."""
    if task == "multiclass":
        return probs, np.eye(probs.shape[1], dtype=int)[targets]
    return probs, targets.reshape(probs.shape)


def _charts(
    task: str, probs: np.ndarray, targets: np.ndarray, thresholds: list[float] | None
) -> list[dict[str, str]]:
    probs, truth = events(task, probs, targets)
    charts = [_reliability(task, probs, truth)]
    if task == "binary":
        charts.append(_histogram(probs[:, 0], truth[:, 0], (thresholds or [0.5])[0]))
    curves = (
        ("ROC", roc_points, "false positive rate", "true positive rate", True),
        ("Precision and recall", pr_points, "recall", "precision", False),
    )
    for title, points_of, x_label, y_label, diagonal in curves:
        pooled = points_of(probs.ravel(), truth.ravel())
        if pooled is None:
            charts.append({"title": title, "note": "Undefined: every row is on one side."})
            continue
        each = [points_of(probs[:, i], truth[:, i]) for i in range(probs.shape[1])]
        thin = each if 1 < len(each) <= MAX_THIN_LINES else []
        lines = [Line(points, None) for points in thin if points] + [Line(pooled)]
        note = "" if len(each) == 1 else "All labels pooled" + ("; thin: each label" * bool(thin))
        svg = line_chart(lines, x_label, y_label, diagonal=diagonal)
        charts.append({"title": title, "svg": svg, "note": note})
    return charts


def _reliability(task: str, probs: np.ndarray, truth: np.ndarray) -> dict[str, str]:
    """Of the likeliest label (multi-class), of the label (binary) or of all labels pooled."""
    note = {"multiclass": "Of the likeliest label", "multilabel": "Of all labels, pooled"}
    if task == "multiclass":
        top = probs.argmax(axis=1)[:, None]
        probs, truth = (np.take_along_axis(a, top, axis=1) for a in (probs, truth))
    bins = reliability(probs.ravel(), truth.ravel())
    points = [(b.prob, b.share) for b in bins]
    band = [(b.low, b.high) for b in bins]
    svg = line_chart(
        [Line(points, 0, dots=True, band=band)],
        "probability",
        "share that has the label",
        diagonal=True,
    )
    rows = ", ".join(f"{b.rows:,}" for b in bins)
    said = f"{note[task]}. " if task in note else ""
    return {
        "title": "Reliability",
        "svg": svg,
        "note": f"{said}Dashed: probabilities that mean what they say. Rows a point: {rows}.",
    }


def _histogram(probs: np.ndarray, truth: np.ndarray, threshold: float) -> dict[str, str]:
    edges = np.linspace(0, 1, NUM_BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    groups = []
    for side in (0, 1):
        own = probs[truth == side]
        share = np.histogram(own, edges)[0] / max(len(own), 1)
        groups.append([(float(x), float(y)) for x, y in zip(middles, share, strict=True)])
    svg = bar_chart(groups, "probability of the label", "share of the rows")
    return {
        "title": "Scores",
        "svg": svg,
        "note": "First colour: rows without the label; second: rows with it. "
        f"Decided from {number(threshold)} on.",
    }


def _confusion(content: Mapping[str, Any], task: str, labels: list[str]) -> dict[str, Any]:
    """Whole for few labels, else the most frequent mistakes; for multi-label counts a label."""
    counts = np.array(content["confusion"])
    if task == "multilabel":
        return {"kind": "multilabel", "labels": labels, "counts": counts.reshape(-1, 4).tolist()}
    left = (content.get("decided") or {}).get("undecided_by_label")
    if len(labels) > MAX_MATRIX:
        wrong = counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong.ravel(), kind="stable")[:MAX_MISTAKES]
        pairs = [(int(place) // len(labels), int(place) % len(labels)) for place in order]
        mistakes = [
            {"true": labels[i], "decided": labels[j], "rows": int(wrong[i, j])}
            for i, j in pairs
            if wrong[i, j]
        ]
        return {"kind": "mistakes", "mistakes": mistakes, "labels": labels}
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = (100 * counts / totals).round().astype(int)
    lines = zip(labels, counts.tolist(), shares.tolist(), left or [None] * len(labels), strict=True)
    return {
        "kind": "matrix",
        "labels": labels,
        "rows": [
            {"label": label, "cells": list(zip(row, share, strict=True)), "undecided": undecided}
            for label, row, share, undecided in lines
        ],
    }
