"""Which depths of a model a probe learns to be read at, and what each of them counts.

A call that only classifies may stop at a depth where the probe is sure. Does not know when it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

from pillion.errors import ConfigError
from pillion.probe import aggregator
from pillion.probe.task import Task, loss


def counts_of(depths: Sequence[int], layers: Sequence[int]) -> tuple[int, ...]:
    """How many of the layers each depth stands for, and all of them at the end; empty for none.

    Raises:
        ConfigError: a depth that is no layer below the last, or depths that do not rise.
    """
    if not depths:
        return ()
    below = list(layers[:-1])
    wrong = [depth for depth in depths if depth not in below]
    if wrong or list(depths) != sorted(set(depths)):
        raise ConfigError(
            f"The depths are {', '.join(map(str, depths))}; give layers that the probe reads, "
            f"rising and below its last ({layers[-1]})."
        )
    return (*(below.index(depth) + 1 for depth in depths), len(layers))


def check_depths(probe: str) -> None:
    """Refuses depths of a probe that is read out of all its layers together.

    Raises:
        ConfigError: it has no read-outs at depths.
    """
    if not aggregator(probe).network.depths:
        raise ConfigError(
            f"Probe {probe!r} has no read-outs at depths; train a gate, or leave the depths out."
        )


def depth_losses(
    task: Task,
    votes: Float[Tensor, "member batch depth output"],
    targets: Num[Tensor, " batch"] | Num[Tensor, "batch output"],
    weights: Float[Tensor, " label"],
    counts: Sequence[int],
) -> Float[Tensor, "member batch"]:
    """The loss of every row: that of each depth by its layers, `sum_d d loss_d / sum_d d`.

    So the deepest counts most (PABEE, arXiv 2006.04152, eq. 3).

    Args:
        task: what the logits mean.
        votes: of `Network.depth_votes`.
        targets: of the rows.
        weights: as of `pillion.probe.task.loss`.
        counts: layers of each depth.
    """
    members, batch, depths, _ = votes.shape
    labels = targets.repeat_interleave(depths, dim=0)
    each = torch.stack([loss(task, vote.flatten(0, 1), labels, weights) for vote in votes])
    shares = torch.tensor(counts, dtype=torch.float32, device=votes.device)
    return (each.view(members, batch, depths) * (shares / shares.sum())).sum(2)
