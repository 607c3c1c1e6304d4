"""The head's meaning: what logits, losses and decisions are for each task.

Pure functions of tensors and label names; knows no aggregator, no disk, no model.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

from pillion.core import Verdict

Task = Literal["binary", "multiclass", "multilabel"]
TASKS: tuple[str, ...] = get_args(Task)


def num_outputs(task: Task, num_labels: int) -> int:
    """Logits of a head: one for a binary task, else one per label."""
    return 1 if task == "binary" else num_labels


def probabilities(
    task: Task, logits: Float[Tensor, "batch output"]
) -> Float[Tensor, "batch output"]:
    """Probabilities in [0, 1], in fp32: softmax for multi-class, sigmoid otherwise.

    A binary head's only column is the probability of the positive label.
    """
    logits = logits.float()
    return logits.softmax(-1) if task == "multiclass" else logits.sigmoid()


def loss(
    task: Task,
    logits: Float[Tensor, "batch output"],
    targets: Num[Tensor, " batch"] | Num[Tensor, "batch output"],
    weights: Float[Tensor, " label"],
) -> Float[Tensor, " batch"]:
    """Cross-entropy of every row, multiplied by its class weight.

    Args:
        task: what the logits mean.
        logits: of the head.
        targets: label ids (binary, multi-class) or 0/1 per label (multi-label; NaN where not
            judged, which adds nothing). For binary and multi-label also probabilities.
        weights: one per label; for multi-label the weight of each label's positives.
    """
    logits = logits.float()
    if task == "multiclass":
        return F.cross_entropy(logits, targets.long(), weight=weights, reduction="none")
    if task == "binary" and targets.is_floating_point():
        positive, negative = F.logsigmoid(logits[:, 0]), F.logsigmoid(-logits[:, 0])
        return -(weights[1] * targets * positive + weights[0] * (1 - targets) * negative)
    if task == "binary":
        per_row = F.binary_cross_entropy_with_logits(
            logits[:, 0], targets.float(), reduction="none"
        )
        return per_row * weights[targets.long()]
    each = F.binary_cross_entropy_with_logits(
        logits, targets.float().nan_to_num(0), reduction="none", pos_weight=weights
    )
    # Over all labels, not the judged ones alone: every judgement weighs the same in every row.
    return each.masked_fill(targets.isnan(), 0).mean(-1)


def class_weights(
    task: Task,
    wanted: Num[Tensor, " row"] | Num[Tensor, "row label"],
    num_labels: int,
    row_weights: Float[Tensor, " row"] | None = None,
) -> Float[Tensor, " label"]:
    """Weights that make every class count the same in the loss: n / (classes * n_class).

    Their mean over rows is 1. A class has as much as the rows count that have it; a row that has it
    with a probability counts by that. Classes that no row has are not counted. For multi-label:
    negatives / positives of each label, as a positive weight, among the rows that were judged on
    it.

    Args:
        task: what is wanted.
        wanted: as the targets of `loss`.
        num_labels: of the task.
        row_weights: what each row counts; None where all count the same.
    """
    own = torch.ones(len(wanted)) if row_weights is None else row_weights
    if task == "multilabel":
        judged, each = ~wanted.isnan(), own[:, None].double()
        positives = (wanted.nan_to_num(0) * each).sum(0).float()
        negatives = (judged * each).sum(0).float() - positives
        some, others = _one_for_none(positives), _one_for_none(negatives)
        return torch.where(positives > 0, others / some, 1.0)
    if wanted.is_floating_point():
        counts = torch.stack([((1 - wanted) * own).sum(), (wanted * own).sum()]).float()
    else:
        counts = torch.bincount(wanted, own.double(), minlength=num_labels).float()
    return counts.sum() / (counts.count_nonzero() * _one_for_none(counts))


def _one_for_none(counts: Float[Tensor, " label"]) -> Float[Tensor, " label"]:
    return torch.where(counts > 0, counts, 1.0)


def verdict(
    probe: str,
    task: Task,
    labels: tuple[str, ...],
    probs: list[float],
    thresholds: tuple[float, ...] | None,
) -> Verdict:
    """The decision that a row of probabilities stands for.

    Args:
        probe: name to sign with.
        task: what the probabilities mean.
        labels: all label names; (negative, positive) for binary.
        probs: one row of `probabilities`.
        thresholds: one for a binary probe, one per label for a multi-label one; None means 0.5.
    """
    if task == "multiclass":
        best = labels[max(range(len(probs)), key=probs.__getitem__)]
        return Verdict(probe, best, dict(zip(labels, probs, strict=True)), None, (best,))
    if task == "binary":
        positive, threshold = probs[0], (thresholds or (0.5,))[0]
        label = labels[1] if positive >= threshold else labels[0]
        named = {labels[0]: 1 - positive, labels[1]: positive}
        return Verdict(probe, label, named, threshold, (label,))
    lines = thresholds or (0.5,) * len(labels)
    chosen = tuple(n for n, p, t in zip(labels, probs, lines, strict=True) if p >= t)
    return Verdict(probe, ",".join(chosen), dict(zip(labels, probs, strict=True)), None, chosen)
