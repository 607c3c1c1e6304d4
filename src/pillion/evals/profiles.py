"""Which layers speak for a class, in the items that a probe got right and in those it got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pillion.core.batching import batches_by_length
from pillion.extract import Progress, silent
from pillion.metrics import decide
from pillion.probe import Artefact
from pillion.runtime import LanguageModel
from pillion.runtime.explanation import contributions

BATCH_TOKENS = 2048


def layer_profiles(
    model: LanguageModel,
    artefact: Artefact,
    token_ids: Sequence[Sequence[int]],
    targets: Shaped[np.ndarray, "row ..."],
    progress: Progress = silent,
) -> dict[str, Any]:
    """What each layer added to the logits of the true and of the decided label, class by class.

    Softmax sees differences of logits only, so for a multi-class probe what a layer added to all
    labels alike is taken out. The logit of a binary probe counts for its positive label, and turned
    for the negative one. For a multi-label probe the items of a class are those that have the
    label, and wrong are those where it was missed.

    Args:
        model: the language model.
        artefact: the probe.
        token_ids: of every row, each with one token or more.
        targets: label ids, or 0/1 a label for a multi-label probe.
        progress: told of every batch.

    Returns:
        `layers`, `exact`, and `classes`: label -> `correct` and `wrong`, each with `rows`,
        `to_true` and `to_decided`: the mean over rows a layer, None where there is no such row (and
        for `to_decided` of a multi-label probe).
    """
    task, labels = artefact.card.task, artefact.card.labels
    lengths = [len(row) for row in token_ids]
    shape = (len(lengths), len(artefact.card.layers), len(labels))
    support, decided, done = np.zeros(shape), np.zeros((len(lengths), len(labels))), 0
    for batch in batches_by_length(lengths, BATCH_TOKENS):
        logits, each = contributions(model, artefact, [token_ids[row] for row in batch])
        support[batch] = _support(task, each.sum(2)).permute(1, 0, 2).cpu().numpy()
        decided[batch] = _decided(artefact, logits)
        done += sum(lengths[row] for row in batch)
        progress("explain", done, sum(lengths))
    true = targets > 0 if task == "multilabel" else np.eye(len(labels))[targets.astype(int)] > 0
    classes = {
        name: _profile(support, true, decided > 0, label, task == "multilabel")
        for label, name in enumerate(labels)
    }
    return {
        "probe": artefact.name,
        "layers": list(artefact.card.layers),
        "exact": artefact.network.additive,
        "rows": len(lengths),
        "classes": classes,
    }


def _support(
    task: str, by_layer: Float[Tensor, "layer batch output"]
) -> Float[Tensor, "layer batch label"]:
    """What each layer added for each label."""
    if task == "binary":
        return torch.cat([-by_layer, by_layer], -1)
    if task == "multiclass":
        return by_layer - by_layer.mean(-1, keepdim=True)
    return by_layer


def _decided(artefact: Artefact, logits: Float[Tensor, "batch output"]) -> np.ndarray:
    """One where a label is given, in a column a label."""
    card = artefact.card
    probs = artefact.probabilities(logits).cpu().numpy()
    given = decide(probs, card.task, card.thresholds)
    return np.concatenate([1 - given, given], 1) if card.task == "binary" else given


def _profile(
    support: np.ndarray, true: np.ndarray, decided: np.ndarray, label: int, several: bool
) -> dict[str, Any]:
    """Means over the rows of one class."""
    has = true[:, label]
    right = has & decided[:, label]
    wrong = has & ~decided[:, label]
    first = decided.argmax(1)
    found: dict[str, Any] = {}
    for kind, rows in (("correct", right), ("wrong", wrong)):
        there = np.flatnonzero(rows)
        found[kind] = {
            "rows": len(there),
            "to_true": _mean(support[there, :, label]),
            "to_decided": None if several else _mean(support[there, :, first[there]]),
        }
    return found


def _mean(values: np.ndarray) -> list[float] | None:
    return values.mean(0).round(6).tolist() if len(values) else None
