"""Running verdicts on answers of labelled rows: after every token, as a stream would give them.

Promises the probabilities that a served request sees, from the plain network on the states of the
scope; and what they are worth. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pillion.core import OnTooLong, Verdict
from pillion.core.batching import batches_by_length
from pillion.evals.scoring import Labelled, score_rows
from pillion.extract import LiveSource, StateSource
from pillion.metrics import evaluate
from pillion.metrics.classification import DEFAULT_THRESHOLD
from pillion.metrics.curves import share_interval
from pillion.metrics.running import after, detection, largest, tokens_until
from pillion.probe import Artefact, Card, Network
from pillion.runtime import LanguageModel, checked, encode_rows
from pillion.train.evaluate import EVALUATION_TOKENS, shared_scale
from pillion.train.reading import read_batches

RunningProbs = Sequence[Float[np.ndarray, "_token output"]]
"""One array a row: probabilities after each of its tokens."""

TOKENS = (16, 32, 64, 128)
"""After so many tokens of the answer a probe is measured, and at its end."""


@dataclass(frozen=True)
class Scored:
    """What a probe says of labelled rows.

    Attributes:
        verdicts: of whole rows, one each.
        running: after every token, of a probe of responses; None of others.
    """

    verdicts: Sequence[Verdict]
    running: RunningProbs | None = None


def score(
    model: LanguageModel,
    artefact: Artefact,
    labelled: Labelled,
    on_too_long: OnTooLong = "error",
    progress: Callable[[int, int], None] | None = None,
    allow_mismatch: bool = False,
) -> Scored:
    """The verdict of every row and, of a probe of responses, the verdicts on its way there.

    Arguments are those of `score_rows`.
    """
    if artefact.card.scope != "response":
        verdicts = score_rows(model, artefact, labelled, on_too_long, progress, allow_mismatch)
        return Scored(verdicts)
    checked(model.backend, artefact, allow_mismatch)
    card, texts = artefact.card, labelled.rows.texts
    rows = encode_rows(model.backend, texts, card.template, on_too_long, scopes=[card.scope])
    source = LiveSource(model.backend, rows, card.layers, card.scope)
    logits = running_logits([artefact.network], source, progress=progress)[0]
    probs = [artefact.probabilities(one).cpu().double().numpy() for one in logits]
    return Scored([artefact.verdict(one[-1].tolist()) for one in probs], probs)


@torch.inference_mode()
def running_logits(
    networks: Sequence[Network],
    source: StateSource,
    max_tokens: int = EVALUATION_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Float[Tensor, "token output"]]]:
    """Logits of every network after every token of every row.

    Args:
        networks: of this source's layers and width.
        source: of the states; every row has a token.
        max_tokens: padded tokens held at once; a longer row is held alone.
        progress: told of tokens done and to do.
    """
    device = next(networks[0].parameters()).device
    batches = batches_by_length(source.lengths, max_tokens)
    found: list[dict[int, Tensor]] = [{} for _ in networks]
    done, total = 0, sum(source.lengths)
    states = read_batches(source, batches, device)
    for row_ids, (hidden, mask) in zip(batches, states, strict=True):
        scale = shared_scale(networks, hidden)
        for network, own in zip(networks, found, strict=True):
            votes = network.eval().prefix_votes(hidden, mask, range(1, mask.shape[1] + 1), scale)
            own |= zip(row_ids, _own_tokens(votes.mean(0), mask), strict=True)
        done += sum(source.lengths[row_id] for row_id in row_ids)
        if progress is not None:
            progress(done, total)
    return [[own[row_id] for row_id in range(len(source.lengths))] for own in found]


def _own_tokens(
    logits: Float[Tensor, "batch token output"], mask: Bool[Tensor, "batch token"]
) -> list[Tensor]:
    return [one[seen].clone() for one, seen in zip(logits, mask, strict=True)]


def measure_running(card: Card, running: RunningProbs, targets: np.ndarray) -> dict[str, Any]:
    """What running verdicts are worth, as JSON values.

    Args:
        card: of the probe; its thresholds stop.
        running: of every row.
        targets: label ids, or 0/1 a label for a multi-label probe.

    Returns:
        `after`: AUPRC and AUROC after some numbers of tokens and at the end (null), with how many
        rows are that long. `stops`: of each label with a threshold, `metrics.running.detection`
        and the interval of its false stops.
    """
    lengths = np.array([len(one) for one in running])
    ends = [*(count for count in TOKENS if count <= lengths.max()), None]
    return {
        "after": [
            {"tokens": count, "rows": int((lengths >= (count or 1)).sum())}
            | evaluate(probs_after(running, count), targets, card.task, names=("auprc", "auroc"))
            for count in ends
        ],
        "stops": [] if card.task == "multiclass" else _stops(card, running, targets),
    }


def probs_after(running: RunningProbs, tokens: int | None) -> Float[np.ndarray, "row output"]:
    """Probabilities after so many tokens, or at the end (None), of every row."""
    count = max(map(len, running)) if tokens is None else tokens
    outputs = range(running[0].shape[1])
    return np.stack([after([one[:, i] for one in running], count) for i in outputs], axis=1)


def largest_probs(running: RunningProbs) -> Float[np.ndarray, "row output"]:
    """The largest probability of every row and output: it decides whether an answer is stopped."""
    outputs = range(running[0].shape[1])
    return np.stack([largest([one[:, i] for one in running]) for i in outputs], axis=1)


def _stops(card: Card, running: RunningProbs, targets: np.ndarray) -> list[dict[str, Any]]:
    names = card.labels[1:] if card.task == "binary" else card.labels
    lines = card.thresholds or (DEFAULT_THRESHOLD,) * len(names)
    truth = targets.reshape(len(targets), -1)
    found: list[dict[str, Any]] = []
    for i, (name, line) in enumerate(zip(names, lines, strict=True)):
        own = [one[:, i] for one in running]
        stopped = tokens_until(own, line)[truth[:, i] == 0] > 0
        ends = share_interval(int(stopped.sum()), len(stopped))
        rates = detection(own, truth[:, i], line)
        found.append({"label": name, "threshold": line, **rates, "false_stops_interval": ends})
    return found
