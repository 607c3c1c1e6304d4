"""Which prefixes of a row are learnt from, and what each of them counts.

A running verdict is asked after every token of an answer, so training asks for it early, too.
Promises the same prefixes however a step is cut into pieces. Does not know networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pillion.errors import ConfigError
from pillion.probe.task import Task, loss

Weighing = Literal["none", "uniform", "softmax"]

MAX_PREFIXES = 16
"""Of a step: they bound its memory, which grows with them and not with the answer."""


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of a step.

    Attributes:
        ends: positions at which they end, from 1, rising; the last one is the longest row's end.
        weighing: `uniform`, every prefix of a row counts the same; `softmax`, by the softmax of
            their logits, so that a harmless beginning of a harmful answer is not punished.
    """

    ends: tuple[int, ...]
    weighing: Weighing

    def within(self, longest: int) -> tuple[int, ...]:
        """The ends for a piece of the step whose longest row has so many tokens."""
        return (*(end for end in self.ends if end < longest), longest)


def drawn(weighing: Weighing, longest: int, seed: int, step: int) -> Prefixes | None:
    """The prefixes of a step: one at random in each of some equal parts, and the whole.

    Args:
        weighing: what each counts.
        longest: tokens of the longest row.
        seed: of the order of the rows.
        step: from 0; each has its own.

    Returns:
        None where only whole rows are learnt from.
    """
    if weighing == "none":
        return None
    edges = np.linspace(0, longest - 1, min(MAX_PREFIXES, longest)).round().astype(int)
    random = np.random.default_rng((seed, step))
    inner = (int(random.integers(low, high)) + 1 for low, high in pairwise(edges))
    return Prefixes((*inner, longest), weighing)


def check_weighing(weighing: Weighing, task: Task) -> None:
    """Refuses weights that a task's logits do not give.

    Raises:
        ConfigError: `softmax` for labels that have no single logit.
    """
    if weighing == "softmax" and task != "binary":
        raise ConfigError(
            f"Prefixes are weighed by softmax of the one logit of a binary probe, got a {task} "
            "task; weigh them alike (uniform)."
        )


def prefix_losses(
    task: Task,
    votes: Float[Tensor, "member batch prefix output"],
    targets: Num[Tensor, " batch"] | Num[Tensor, "batch output"],
    weights: Float[Tensor, " label"],
    there: Bool[Tensor, "batch prefix"],
    weighing: Weighing,
) -> Float[Tensor, "member batch"]:
    """The loss of every row, `sum_t w_t loss(y, z_t)` over its prefixes.

    With `softmax` w is the softmax of the logits z (Constitutional Classifiers++, arXiv
    2601.04603); it weighs, and is not learnt through.

    Args:
        task: what the logits mean.
        votes: of `Network.prefix_votes`.
        targets: of the rows.
        weights: as of `pillion.probe.task.loss`.
        there: of `prefixes_there`.
        weighing: what each prefix counts.
    """
    members, batch, prefixes, _ = votes.shape
    labels = targets.repeat_interleave(prefixes, dim=0)
    each = torch.stack([loss(task, vote.flatten(0, 1), labels, weights) for vote in votes])
    scores = votes[..., 0].detach() if weighing == "softmax" else torch.zeros_like(votes[..., 0])
    shares = scores.masked_fill(~there, -torch.inf).softmax(2)
    return (each.view(members, batch, prefixes) * shares).sum(2)


def prefixes_there(
    mask: Bool[Tensor, "batch token"], ends: tuple[int, ...]
) -> Bool[Tensor, "batch prefix"]:
    """Which prefixes a row has: those with a token that the one before has not.

    A row without tokens has the first one.
    """
    first, *others = (mask[:, begin:end].any(1) for begin, end in pairwise((0, *ends)))
    return torch.stack([first | ~mask.any(1), *others], dim=1)
