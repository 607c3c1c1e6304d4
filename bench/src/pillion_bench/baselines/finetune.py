"""The loop that trains a text classifier whole: batches, a rate that rises and falls, best epoch.

Shared by classifiers of their own and by adapters in the language model. Does not know the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pillion.core.batching import batches_by_length
from pillion.extract import Progress
from pillion.probe.task import Task, loss, probabilities
from pillion.train.learner import learning_rate
from pillion.train.order import epoch_batches
from pillion_bench.baselines.base import Outcome
from pillion_bench.choice import log_loss, quality
from pillion_bench.problem import Problem

Tokens = Sequence[Sequence[int]]
Logits = Callable[[list[Sequence[int]]], Float[Tensor, "row output"]]
"""From rows of token ids to logits, with gradients where they are on."""

EVALUATION_TOKENS = 4096
TRAINING_TOKENS = 2048
"""Padded tokens whose activations are held at once; a step of more is the sum of its pieces."""


@dataclass(frozen=True)
class Rates:
    """How a model is trained.

    Attributes:
        epochs: passes over the training rows.
        longest: epochs at most, if the last of `epochs` is the best; 0: these.
        learning_rate: the highest one.
        weight_decay: of AdamW.
        batch_size: rows a step.
        warmup: share of the steps in which the rate rises.
    """

    epochs: int
    learning_rate: float
    weight_decay: float = 0.01
    batch_size: int = 32
    warmup: float = 0.1
    longest: int = 0


def finetune(
    logits_of: Logits,
    model: torch.nn.Module,
    tokens: Mapping[str, Tokens],
    problem: Problem,
    rates: Rates,
    seed: int,
    progress: Progress,
) -> list[float]:
    """Trains the parameters of a model that want gradients; leaves those of the best epoch.

    Args:
        logits_of: what the model says of rows.
        model: whose parameters are moved.
        tokens: of `train` and `validation` rows.
        problem: whose targets.
        rates: how it is trained.
        seed: of the order of the rows and of what is dropped.
        progress: told of every step, as stage `finetune`.

    Returns:
        The log-loss on validation after each epoch.
    """
    moved = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(
        moved.values(), lr=rates.learning_rate, weight_decay=rates.weight_decay
    )
    lengths = [len(row) for row in tokens["train"]]
    targets = torch.as_tensor(problem.train.targets)
    weights = torch.ones(len(problem.space.names))
    steps = rates.epochs * math.ceil(len(lengths) / rates.batch_size)
    losses: list[float] = []
    best: dict[str, Tensor] = {}
    step = 0
    torch.manual_seed(seed)
    for epoch in range(rates.epochs):
        model.train()
        for rows in epoch_batches(lengths, rates.batch_size, seed, epoch):
            for group in optimiser.param_groups:
                group["lr"] = rates.learning_rate * learning_rate(step, steps, rates.warmup)
            for piece in batches_by_length([lengths[row] for row in rows], TRAINING_TOKENS):
                own = [rows[place] for place in piece]
                said = logits_of([tokens["train"][row] for row in own])
                wanted = targets[own].to(said.device)
                each = loss(problem.task, said, wanted, weights.to(said.device))
                (each.sum() / len(rows)).backward()
            torch.nn.utils.clip_grad_norm_(moved.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            step += 1
            progress("finetune", step, steps, -losses[-1] if losses else None)
        said = predict(logits_of, model, tokens["validation"], problem.task)
        losses.append(log_loss(said, problem.validation.targets, problem.task))
        if losses[-1] == min(losses):
            best = {name: p.detach().clone() for name, p in moved.items()}
    for name, parameter in moved.items():
        parameter.data.copy_(best[name])
    return losses


@torch.no_grad()
def predict(
    logits_of: Logits, model: torch.nn.Module, tokens: Tokens, task: Task
) -> Float[np.ndarray, "row output"]:
    """Probabilities of every row."""
    model.eval()
    found: dict[int, Shaped[np.ndarray, " output"]] = {}
    for rows in batches_by_length([len(row) for row in tokens], EVALUATION_TOKENS):
        probs = probabilities(task, logits_of([tokens[row] for row in rows]))
        found.update(zip(rows, probs.cpu().numpy(), strict=True))
    return np.stack([found[row] for row in range(len(tokens))])


def long_enough(fit: Callable[[int], Outcome], problem: Problem, rates: Rates) -> Outcome:
    """The best of fits with ever twice as many epochs, while the last epoch is the best.

    Args:
        fit: with a number of epochs; what it chose holds `best_epoch`.
        problem: whose leading metric judges on validation.
        rates: epochs to begin with, and at most.
    """
    tried: dict[int, Outcome] = {}
    epochs = rates.epochs
    while not tried or (_is_last_best(tried[max(tried)]) and epochs <= rates.longest):
        tried[epochs] = fit(epochs)
        epochs *= 2
    lead, task, targets = problem.leading[0], problem.task, problem.validation.targets
    found = {n: quality(lead, task, one.validation, targets) for n, one in tried.items()}
    best = tried[max(found, key=lambda count: found[count].rank)]
    facts = {"epochs_tried": {str(count): one.facts for count, one in found.items()}}
    return replace(best, chosen={**best.chosen, **facts, "at_edge": _is_last_best(best)})


def _is_last_best(outcome: Outcome) -> bool:
    return outcome.chosen["best_epoch"] == outcome.chosen["epochs"]


def described(rates: Rates, losses: Sequence[float]) -> dict[str, Any]:
    """What was chosen: the epoch with the smallest log-loss on validation."""
    best = int(np.argmin(losses)) + 1
    return {"best_epoch": best, "log_loss_by_epoch": [round(x, 4) for x in losses], **vars(rates)}
