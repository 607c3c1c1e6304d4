"""The result file of one probe on one labelled data set: numbers, predictions, examples.

Promises JSON values that a report can be made of without model, probe or data. Holds texts only if
examples are asked for. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pillion.core import OnTooLong, Verdict
from pillion.data import flat_text, names_of
from pillion.errors import MismatchError
from pillion.evals.by_label import by_label
from pillion.evals.cost import probe_cost
from pillion.evals.running import Scored, measure_running
from pillion.evals.scoring import Labelled, probs_of
from pillion.metrics import Interval, confusion, decide, evaluate, intervals
from pillion.probe import Artefact, Card
from pillion.provenance import provenance
from pillion.runtime import LanguageModel, encode_rows

KIND = "evaluation"
NUM_RESAMPLES = 200
MAX_COLUMNS = 20
"""Outputs up to which every metric is resampled; the curves of more would take minutes."""
CHEAP = ("accuracy", "f1", "f1_micro", "brier")
LENGTHS = (1, 2, 17, 65, 257, 1025, 4097)
"""Shortest texts of the groups by length, in tokens."""


def result_of(
    model: LanguageModel,
    artefact: Artefact,
    labelled: Labelled,
    scored: Scored,
    on_too_long: OnTooLong = "error",
    num_examples: int = 0,
) -> dict[str, Any]:
    """`evaluation`, with the cost of the probe measured on this model.

    Where the model is another one than the probe's, the settings say so under `mismatch`.

    Args:
        model: that gave the verdicts.
        artefact: of the probe.
        labelled: the rows.
        scored: what the probe says of them.
        on_too_long: what happened to a text beyond the context window.
        num_examples: texts of each kind that are kept.
    """
    texts, template = labelled.rows.texts, artefact.card.template
    rows = encode_rows(model.backend, texts, template, on_too_long)
    cost = probe_cost(model, artefact, rows)
    num_tokens = [len(row) for row in rows]
    found = evaluation(artefact, labelled, scored, num_tokens, cost, num_examples)
    try:
        artefact.check(model.backend.identity)
    except MismatchError as error:
        found["settings"]["mismatch"] = str(error)
    return found


def evaluation(
    artefact: Artefact,
    labelled: Labelled,
    scored: Scored,
    num_tokens: Sequence[int],
    cost: dict[str, Any],
    num_examples: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of the result file.

    Args:
        artefact: of the probe.
        labelled: the rows.
        scored: what the probe says of them.
        num_tokens: of each row, template included.
        cost: of the probe, as JSON values.
        num_examples: texts of each kind (wrong, unsure, right) that are kept.
        seed: of the resamples.
    """
    card, targets, verdicts = artefact.card, labelled.targets, scored.verdicts
    probs = probs_of(card, verdicts)
    metrics = evaluate(probs, targets, card.task, card.thresholds)
    undecided = np.array([bool(verdict.abstained) for verdict in verdicts])
    return {
        "name": f"{KIND}-{artefact.name}",
        "kind": KIND,
        **provenance(),
        "seed": seed,
        "data": [{**labelled.facts, "split": "all rows"}],
        "settings": {"probe": _probe_facts(artefact), "num_resamples": NUM_RESAMPLES},
        "results": _with_intervals(metrics, probs, targets, artefact, seed),
        "labels": list(card.labels),
        "per_label": by_label(card, probs, targets, seed),
        **_decided(card, probs, targets, undecided),
        "by_length": _by_length(artefact, probs, targets, np.array(num_tokens)),
        "predictions": {
            "probs": probs.round(6).tolist(),
            "targets": _as_json(targets),
            "undecided": undecided.tolist(),
        },
        "running": None
        if scored.running is None
        else measure_running(card, scored.running, targets),
        "sets": _sets(labelled, verdicts),
        "examples": _examples(artefact, labelled, probs, verdicts, num_examples),
        "cost": cost,
        "decisions": card.decisions,
    }


def _as_json(targets: np.ndarray) -> Any:
    """Whole numbers; null where a label was not judged."""
    if targets.ndim == 1:
        return targets.astype(int).tolist()
    return [[None if np.isnan(one) else int(one) for one in row] for row in targets]


def _probe_facts(artefact: Artefact) -> dict[str, Any]:
    card = artefact.card.model_dump(mode="json")
    kept = ("probe", "settings", "task", "layers", "template", "thresholds", "calibration")
    decides = ("abstain", "conformal", "exit")
    return {
        "name": artefact.name,
        **{name: card[name] for name in (*kept, *decides, "data", "seed", "training")},
        "model": card["model"]["name"],
        "parameters": artefact.network.num_parameters,
    }


def _with_intervals(
    metrics: dict[str, float | None],
    probs: np.ndarray,
    targets: np.ndarray,
    artefact: Artefact,
    seed: int,
) -> list[dict[str, Any]]:
    card = artefact.card
    names = list(metrics) if probs.shape[1] <= MAX_COLUMNS else list(CHEAP)

    def measured(p: np.ndarray, t: np.ndarray) -> dict[str, float | None]:
        return evaluate(p, t, card.task, card.thresholds, names)

    around = intervals(measured, probs, targets, num_resamples=NUM_RESAMPLES, seed=seed)
    return [
        {
            "metric": name,
            "value": value,
            "interval": _ends(around.get(name)),
            "rows": len(targets),
        }
        for name, value in metrics.items()
    ]


def _ends(around: Interval | None) -> list[float] | None:
    """None where every draw is the same: rows without a mistake do not show that there is none."""
    return [around.low, around.high] if around and around.low < around.high else None


def _decided(
    card: Card, probs: np.ndarray, targets: np.ndarray, undecided: np.ndarray
) -> dict[str, Any]:
    """What becomes of the rows that the probe decides, and whose the others are."""
    kept = ~undecided
    counts = confusion(probs[kept], targets[kept], card.task, card.thresholds).tolist()
    if not undecided.any():
        return {"confusion": counts, "decided": None}
    left = None
    if card.task != "multilabel":
        left = np.bincount(targets[undecided], minlength=len(card.labels)).tolist()
    names = ("accuracy", "f1")
    own = evaluate(probs[kept], targets[kept], card.task, card.thresholds, names)
    return {
        "confusion": counts,
        "decided": {"rows": int(kept.sum()), **own, "undecided_by_label": left},
    }


def _by_length(
    artefact: Artefact, probs: np.ndarray, targets: np.ndarray, num_tokens: np.ndarray
) -> list[dict[str, Any]]:
    """How well short and long texts are told; groups without rows are left out."""
    card, found = artefact.card, list[dict[str, Any]]()
    for low, high in zip(LENGTHS, (*LENGTHS[1:], None), strict=True):
        inside = (num_tokens >= low) & (num_tokens < (high or np.inf))
        if not inside.any():
            continue
        kept = evaluate(
            probs[inside], targets[inside], card.task, card.thresholds, ("accuracy", "f1", "auprc")
        )
        last = None if high is None else high - 1
        found.append({"from": low, "to": last, "rows": int(inside.sum()), **kept})
    return found


def _sets(labelled: Labelled, verdicts: Sequence[Verdict]) -> dict[str, Any] | None:
    """How large prediction sets are, and how often a row's labels are in them."""
    sets = [verdict.prediction_set for verdict in verdicts]
    if not sets or sets[0] is None:
        return None
    covered = list[float]()
    for names, label in zip(sets, labelled.rows.labels or (), strict=True):
        true = names_of(label)
        if true:
            covered.append(sum(name in (names or ()) for name in true) / len(true))
    sizes = [len(names or ()) for names in sets]
    counts = {str(size): sizes.count(size) for size in sorted(set(sizes))}
    coverage = sum(covered) / len(covered) if covered else None
    return {"coverage": coverage, "mean_size": sum(sizes) / len(sizes), "sizes": counts}


def _examples(
    artefact: Artefact,
    labelled: Labelled,
    probs: np.ndarray,
    verdicts: Sequence[Verdict],
    count: int,
) -> dict[str, list[dict[str, Any]]]:
    """The surest mistakes, the least sure rows and the surest right ones, with their texts."""
    if not count:
        return {}
    card = artefact.card
    chosen = decide(probs, card.task, card.thresholds)
    truth = np.eye(probs.shape[1])[labelled.targets] if card.task == "multiclass" else None
    truth = labelled.targets.reshape(chosen.shape) if truth is None else truth
    right = ((chosen == truth) | np.isnan(truth)).all(axis=1)
    # The margin of the decision: from the threshold, or between the two likeliest labels.
    if card.task == "multiclass":
        ranked = np.sort(probs, axis=1)
        margin = ranked[:, -1] - ranked[:, -2]
    else:
        margin = np.abs(probs - np.array(card.thresholds or 0.5)).min(axis=1)
    order = np.argsort(-margin, kind="stable")
    groups = {
        "wrong": [row for row in order if not right[row]][:count],
        "unsure": list(order[::-1][:count]),
        "right": [row for row in order if right[row]][:count],
    }
    return {
        name: [_example(labelled, verdicts[row], int(row)) for row in rows]
        for name, rows in groups.items()
    }


def _example(labelled: Labelled, verdict: Verdict, row: int) -> dict[str, Any]:
    assert labelled.rows.labels is not None
    label = labelled.rows.labels[row]
    ranked = sorted(verdict.probs.items(), key=lambda item: -item[1])[:3]
    return {
        "row": labelled.rows.numbers[row],  # of the data: rows may have been left out
        "text": flat_text(labelled.rows.texts[row]),
        "label": list(names_of(label)),
        "decided": list(verdict.labels),
        "undecided": bool(verdict.abstained),
        "probs": [[name, round(prob, 4)] for name, prob in ranked],
    }
