"""Untrained probes of any task and labels, for tests of what is said of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pillion.core import ModelIdentity
from pillion.data import Rows
from pillion.evals import Labelled
from pillion.probe import Artefact
from pillion.probe.untrained import untrained

MODEL = ModelIdentity("tiny", "a", "b", "c", num_layers=1, dim=4, dtype="float32", context_tokens=9)
DATA = {"sha256": "d", "path": "train.csv", "num_rows": 10, "split": "train"}
LABELS = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "multilabel": ("a", "b", "c")}


def made_artefact(task: str, labels: tuple[str, ...] | None = None, **facts: Any) -> Artefact:
    """A probe that reads layer 0, with the facts that are given on its card."""
    known = {"task": task, "labels": labels or LABELS[task], "layers": (0,), "model": MODEL}
    return untrained("mood", probe="pooling", **(known | {"data": DATA} | facts))


def made_rows(artefact: Artefact, texts: list[str], labels: list[Any]) -> Labelled:
    """Rows of a file that never was."""
    return Labelled.of(artefact.card, Rows.of(texts, labels, "rows.csv"))


def made_probs(artefact: Artefact, labelled: Labelled, seed: int = 0) -> np.ndarray:
    """Probabilities that mostly are right, (row, output)."""
    rng = np.random.default_rng(seed)
    card, targets = artefact.card, labelled.targets
    outputs = 1 if card.task == "binary" else len(card.labels)
    truth = np.eye(outputs)[targets] if card.task == "multiclass" else targets
    logits = rng.normal(size=(len(targets), outputs)) + 3 * truth.reshape(-1, outputs)
    if card.task == "multiclass":
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(1.5 - logits))
