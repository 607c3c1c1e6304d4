"""Probes whose weights are solved, not trained: ridge regression on pooled states.

Promises `concat` probes like any others, for rows that are too few to go over in steps, and what
each row is said to be by a probe that has not seen it. Does not know engines or label names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pillion.core import Shape
from pillion.probe import Network, build, make_settings
from pillion.probe.pooling import Pooling
from pillion.probe.task import Task
from pillion.select.ridge import left_out_of_kernel

PROBE = "concat"
"""Each layer votes by a matrix of its own on the mean of its RMS-normalised states: linear in them,
so that ridge regression on pooled states is this probe with other weights."""

MOST_ROWS = 2000
"""Rows that are solved for, at most: time grows with their cube."""

STEEPEST = 30.0
"""Largest logit a score of 1 stands for: rows that are told apart without a fault name no limit."""


@dataclass(frozen=True)
class Solved:
    """A probe in closed form.

    Attributes:
        network: the probe.
        left_out: logits of every row by the probe that the others give (those of other groups,
            where there are any), at the same penalty and the same scale of logits.
        penalty: as a share of the rows' mean square.
    """

    network: Network
    left_out: Float[Tensor, "row output"]
    penalty: float


def solve(
    states: Float[Tensor, "layer row dim"],
    targets: Shaped[np.ndarray, "row ..."],
    task: Task,
    num_outputs: int,
    groups: Int[np.ndarray, " row"] | None = None,
) -> Solved:
    """The probe that ridge regression on all layers side by side gives.

    Features are z-scored by these rows, and each layer weighs the same. The penalty is that of the
    smallest leave-one-out error; a score becomes a logit by the scale (and, where outputs are
    alone, the offset) under which left-out rows are likeliest.

    Args:
        states: RMS-normalised and pooled by their mean, as `pooled_source` gives them.
        targets: label ids, or 0/1 a label; all judged.
        task: what targets mean.
        num_outputs: of the task.
        groups: a number a row; rows of one number are left out together. None: one at a time.
    """
    mean = states.double().mean(1, keepdim=True)
    deviation = (states.double() - mean).square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
    features = (states.double() - mean) / deviation
    kernel = torch.zeros(states.shape[1], states.shape[1], dtype=torch.float64)
    for layer in features:
        kernel += layer @ layer.T
    kernel /= features.shape[0] * features.shape[2]
    wanted = _signs(targets, task, num_outputs)
    found = left_out_of_kernel(kernel, wanted, groups)
    scale, offset = logit_scale(found.scores, targets, task)
    middle = wanted.mean(0)
    ridge = found.penalty * kernel.trace() / len(kernel)
    dual = torch.linalg.solve(
        kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype), wanted - middle
    )
    weight = torch.stack([layer.T @ dual for layer in features])
    weight = weight / (deviation.transpose(1, 2) * features.shape[0] * features.shape[2])
    bias = middle - (mean @ weight)[:, 0].sum(0)
    return Solved(
        _network(weight * scale, bias * scale + offset),
        (found.scores * scale + offset).float(),
        found.penalty,
    )


def _network(weight: Float[Tensor, "layer dim output"], bias: Float[Tensor, " output"]) -> Network:
    network = build(PROBE, Shape(*weight.shape), make_settings(PROBE))
    assert isinstance(network, Pooling)
    with torch.no_grad():
        network.weight.copy_(weight[:, :, None])
        network.bias.copy_(bias)
    return network.eval()


def _signs(
    targets: Shaped[np.ndarray, "row ..."], task: Task, num_outputs: int
) -> Float[Tensor, "row output"]:
    """1 and -1 of every output."""
    given = torch.from_numpy(targets)
    if task == "multiclass":
        given = torch.nn.functional.one_hot(given.long(), num_outputs)
    return given.double().reshape(len(targets), -1) * 2 - 1


def logit_scale(
    scores: Float[Tensor, "row output"], targets: Shaped[np.ndarray, "row ..."], task: Task
) -> tuple[Float[Tensor, " output"], Float[Tensor, " output"]]:
    """What scores of left-out rows are multiplied by, and what is added, to make them logits.

    One scale for all labels of a softmax, which sees no offset that they share; a scale and an
    offset for every output that stands alone (Platt 1999).
    """
    outputs = scores.shape[1]
    if task == "multiclass":
        ids = torch.from_numpy(targets).long()
        steps = torch.logspace(-1, float(np.log10(STEEPEST)), 60, dtype=scores.dtype)
        losses = [torch.nn.functional.cross_entropy(scores * step, ids) for step in steps]
        best = steps[int(torch.stack(losses).argmin())]
        return best.expand(outputs), torch.zeros(outputs, dtype=scores.dtype)
    columns = torch.from_numpy(targets).double().reshape(len(targets), -1)
    pairs = [_platt(own, wanted) for own, wanted in zip(scores.T, columns.T, strict=True)]
    scale, offset = torch.tensor(pairs, dtype=scores.dtype).T
    return scale, offset


def _platt(scores: Float[Tensor, " row"], wanted: Float[Tensor, " row"]) -> tuple[float, float]:
    """Scale and offset of one output, by Newton's method on targets that are not quite 0 and 1."""
    positives = float(wanted.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(wanted) - positives + 2)
    aims = torch.where(wanted > 0, high, low).to(scores.dtype)
    design = torch.stack([scores, torch.ones_like(scores)], 1)
    found = torch.zeros(2, dtype=scores.dtype)
    for _ in range(30):
        probs = (design @ found).sigmoid()
        slope = design.T @ (aims - probs)
        bend = design.T @ (design * (probs * (1 - probs))[:, None])
        step = torch.linalg.solve(bend + 1e-6 * torch.eye(2, dtype=bend.dtype), slope)
        found = (found + step.clamp(-5, 5)).clamp(-STEEPEST, STEEPEST)
    # A score that says the opposite of its label says nothing.
    return max(float(found[0]), 0.0), float(found[1])
