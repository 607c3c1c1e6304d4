"""One configuration while it is trained: weights, optimiser, best weights so far.

Promises that what it learns depends on its configuration and the batches alone. Does not know what
trains beside it, nor where states come from.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pillion.core import Shape
from pillion.errors import StateError
from pillion.probe import Network, build, make_settings
from pillion.probe.task import Task, loss
from pillion.train.depths import depth_losses
from pillion.train.prefixes import Prefixes, prefix_losses, prefixes_there
from pillion.train.settings import ProbeConfig

AVERAGE = 0.998
"""What a step leaves of the running mean of the weights: it spans about 500 steps, and does better
than the weights of any one step (`docs/log.md`)."""

Curve = list[dict[str, float | None]]
"""Per epoch: name -> validation metric, and `loss`, the mean training loss."""


@dataclass(frozen=True)
class MicroBatch:
    """A piece of a step: all of its rows, or as many as fit.

    Attributes:
        hidden: states.
        mask: which of them are tokens.
        scale: 1 / rms of every state, computed once for all configurations; None if none asks.
        targets: of the rows.
        share: 1 / rows of the whole step: pieces add up to the mean over the step.
        prefixes: those of the step to learn from; None for whole rows.
        depths: numbers of layers to learn read-outs of, all of them last; empty for that alone.
        row_weights: what each row counts; None where all count the same.
    """

    hidden: Float[Tensor, "layer batch token dim"]
    mask: Bool[Tensor, "batch token"]
    scale: Float[Tensor, "layer batch token"] | None
    targets: Num[Tensor, " batch"] | Num[Tensor, "batch output"]
    share: float
    prefixes: Prefixes | None = None
    depths: tuple[int, ...] = ()
    row_weights: Float[Tensor, " batch"] | None = None

    def losses(
        self, network: Network, task: Task, weights: Float[Tensor, " label"]
    ) -> Float[Tensor, "member batch"]:
        """What every row and member of a network has to learn.

        Depths and prefixes count by half each where both are learnt; whole rows where neither is.
        """
        found: list[Tensor] = []
        if self.depths:
            votes = network.depth_votes(self.hidden, self.mask, self.depths, self.scale)
            found.append(depth_losses(task, votes, self.targets, weights, self.depths))
        if self.prefixes is not None:
            ends = self.prefixes.within(self.mask.shape[1])
            votes = network.prefix_votes(self.hidden, self.mask, ends, self.scale)
            there, weighing = prefixes_there(self.mask, ends), self.prefixes.weighing
            found.append(prefix_losses(task, votes, self.targets, weights, there, weighing))
        if not found:
            votes = network.votes(self.hidden, self.mask, self.scale)
            found.append(torch.stack([loss(task, vote, self.targets, weights) for vote in votes]))
        mean = found[0] if len(found) == 1 else (found[0] + found[1]) / 2
        return mean if self.row_weights is None else mean * self.row_weights


@dataclass
class Learner:
    """A configuration in training.

    Attributes:
        config: what it is.
        network: its current weights.
        average: their running mean, which is validated and kept.
        optimiser: AdamW over them.
        best: the weights of the best epoch, by name.
        curve: validation metrics of every epoch.
        best_epoch: from 1; 0 before the first.
        best_score: validation score of that epoch.
        seconds: time spent in steps.
        loss_sum: training loss of the running epoch, added up over its steps.
        num_steps: steps taken.
    """

    config: ProbeConfig
    network: Network
    average: Network
    optimiser: torch.optim.AdamW
    best: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    curve: Curve = field(default_factory=Curve)
    best_epoch: int = 0
    best_score: float = -math.inf
    seconds: float = 0.0
    loss_sum: float = 0.0
    num_steps: int = 0

    @classmethod
    def start(cls, config: ProbeConfig, shape: Shape, device: torch.device) -> Learner:
        """Fresh weights of the configuration's seed."""
        network = build(
            config.probe, shape, make_settings(config.probe, **config.settings), config.seed
        ).to(device)
        optimiser = torch.optim.AdamW(
            network.parameters(),
            lr=config.rate,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
            fused=True,
        )
        average = copy.deepcopy(network).eval().requires_grad_(False)
        return cls(config, network, average, optimiser)

    def accumulate(
        self, part: MicroBatch, task: Task, weights: Float[Tensor, " label"], step: int
    ) -> None:
        """Adds the gradient of a piece of a step.

        Raises:
            StateError: the loss is not finite; the message names configuration and step.
        """
        began = time.perf_counter()
        # From seed and step alone: neither companions nor an interruption can shift it.
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        self.network.train()
        total = part.losses(self.network, task, weights).mean(0).sum() * part.share
        value = total.item()
        if not math.isfinite(value):
            raise self.diverged("The loss", f"is not finite at step {step + 1}")
        self.loss_sum += value
        total.backward()
        self.seconds += time.perf_counter() - began

    def diverged(self, what: str, how: str) -> StateError:
        """The error for a number of this configuration that is not finite.

        Args:
            what: the number.
            how: that it is not finite, and where.
        """
        return StateError(
            f"{what} of {self.config.probe!r} (learning rate {self.config.rate:g}, seed "
            f"{self.config.seed}) {how}; lower the learning rate, or check the hidden states."
        )

    def check_weights(self) -> None:
        """Returns if the weights are finite, after a step whose loss none will look at.

        Raises:
            StateError: they are not.
        """
        if not all(bool(one.isfinite().all()) for one in self.average.parameters()):
            raise self.diverged("A weight", f"is not finite after {self.num_steps} steps")

    def step(self, share: float) -> None:
        """Moves the weights by the gradient that was added up, at a share of the learning rate."""
        began = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate * share
        self.optimiser.step()
        self.optimiser.zero_grad()
        self._average()
        self.seconds += time.perf_counter() - began

    @torch.no_grad()
    def _average(self) -> None:
        self.num_steps += 1
        # The first steps move far: the mean follows them until it has something to hold on to.
        kept = min(AVERAGE, self.num_steps / (self.num_steps + 9))
        for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(now, 1 - kept)

    def note(self, metrics: dict[str, float | None], score: float) -> None:
        """Takes down an epoch's validation, and its weights if they are the best so far."""
        self.curve.append(metrics)
        if score > self.best_score:
            self.best_score, self.best_epoch = score, len(self.curve)
            self.best = {n: p.detach().clone() for n, p in self.average.named_parameters()}

    def stopped(self, patience: int) -> bool:
        """Whether it has gone too long without a better score."""
        return len(self.curve) - self.best_epoch >= patience


def learning_rate(step: int, num_steps: int, warmup: float) -> float:
    """Share of the highest learning rate in a step: a straight rise, then a cosine to 0.

    Args:
        step: from 0.
        num_steps: of the whole run.
        warmup: share of the steps in which it rises.
    """
    rising = max(1, round(warmup * num_steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, num_steps - rising)))
