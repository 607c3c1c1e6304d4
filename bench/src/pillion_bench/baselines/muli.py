"""MULI: sparse logistic regression on the logits of the first response token.

arXiv 2405.18822: `ln p - ln(1 - p)` over the whole vocabulary, z-scored by the training rows, one
linear unit, binary cross-entropy with weight n_neg / n_pos on positives plus 1e-3 |theta|_1, plain
SGD. With more than two labels there is one such unit a label. Logits come from the last token's
state of the last layer, so that nothing vocabulary-wide is kept on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pillion.backends import Backend
from pillion.core import Template
from pillion.data.labels import Task
from pillion.extract import Progress
from pillion_bench.baselines.base import Method, Outcome, Serving, Settings, Workplace
from pillion_bench.choice import log_loss
from pillion_bench.problem import Part

ROWS_AT_ONCE = 256


class MuliSettings(Settings):
    """Settings of MULI; the defaults are the paper's.

    Attributes:
        template: how a text is shown; None: as the data set says. The first response token is
            that of an answer under `chat`.
        learning_rate: of SGD.
        l1: weight of the penalty.
        batch_size: rows a step.
        epochs: passes over the training rows.
    """

    template: Template | None = None
    learning_rate: float = Field(default=5e-4, gt=0)
    l1: float = Field(default=1e-3, ge=0)
    batch_size: int = Field(default=128, ge=1)
    epochs: int = Field(default=500, ge=1)


class Muli(Method):
    """One linear unit a label on the whole vocabulary's log-odds."""

    Settings: ClassVar[type[Settings]] = MuliSettings

    @property
    def seeded(self) -> bool:
        """See `Method.seeded`."""
        return True

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`; features are made once for all seeds."""
        problem, states, how = place.problem, place.states, self.settings

        def raw(part: Part) -> Float[Tensor, "row vocab"]:
            return log_odds(states.backend, states.last_states(part, how.template))

        train = raw(problem.train)
        mean, deviation = _standardise(train)

        @cache
        def features(part: Part) -> Float[Tensor, "row vocab"]:
            rows = raw(part)
            _apply_standard(rows, mean, deviation)
            return rows

        wanted = _columns(problem.train.targets, problem.num_outputs, problem.task)
        for seed in seeds:
            weights, bias = fit_units(train, wanted, how, seed, place.progress)

            def ask(part: Part, weights: Tensor = weights, bias: Tensor = bias) -> np.ndarray:
                return _probs(features(part), weights, bias, problem.task)

            held = ask(problem.validation)
            facts = {
                "zero_weights": float((weights.abs() < 1e-4).float().mean()),
                "log_loss": log_loss(held, problem.validation.targets, problem.task),
            }
            yield Outcome(held, ask, weights.numel() + bias.numel(), facts)

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`: the logits are there anyway, their log-odds are not."""
        features = log_odds(place.states.backend, _a_state(place))[0]
        mean, deviation = torch.zeros_like(features.float()), torch.ones_like(features.float())
        weights = mean[:, None].repeat(1, place.problem.num_outputs)

        def after(_: object, logits: Tensor) -> Tensor:
            return ((of_logits(logits.float()) - mean) / deviation) @ weights

        return Serving(weights.nbytes + mean.nbytes + deviation.nbytes, after=after)


def log_odds(backend: Backend, last_states: Float[Tensor, "row dim"]) -> Float[Tensor, "row vocab"]:
    """`ln p - ln(1 - p)` of every token of the vocabulary, kept in fp16.

    Args:
        backend: whose head turns states into logits.
        last_states: of the last layer, of each text's last token.
    """
    pieces = [of_logits(backend.unembed(piece)) for piece in last_states.split(ROWS_AT_ONCE)]
    return torch.cat([piece.half() for piece in pieces])


def of_logits(logits: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
    """`ln p - ln(1 - p)` of logits, finite also for a certain token."""
    log_p = logits.log_softmax(-1)
    return log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-7))


def fit_units(
    features: Float[Tensor, "row vocab"],
    wanted: Float[Tensor, "row output"],
    how: MuliSettings,
    seed: int,
    progress: Progress,
) -> tuple[Float[Tensor, "vocab output"], Float[Tensor, " output"]]:
    """The units' weights and biases by SGD, from zero.

    Args:
        features: z-scored log-odds.
        wanted: 0 or 1 of every output.
        how: rates, penalty, epochs.
        seed: of the order of the rows.
        progress: told of every epoch, as stage `muli`.
    """
    device, wanted = features.device, wanted.to(features.device)
    weights = torch.zeros(features.shape[1], wanted.shape[1], device=device)
    bias = torch.zeros(wanted.shape[1], device=device)
    positives = wanted.sum(0).clamp(min=1)
    pos_weight = (len(wanted) - positives).clamp(min=1) / positives
    random = torch.Generator().manual_seed(seed)
    for epoch in range(how.epochs):
        order = torch.randperm(len(features), generator=random).to(device)
        for rows in order.split(how.batch_size):
            batch = features[rows].float()
            pull = _pull(batch @ weights + bias, wanted[rows], pos_weight)
            # By hand, as SGD moves nothing else: the gradient, and the penalty's sign.
            weights.sub_(batch.T @ pull + how.l1 * weights.sign(), alpha=how.learning_rate)
            bias.sub_(pull.sum(0), alpha=how.learning_rate)
        progress("muli", epoch + 1, how.epochs)
    return weights, bias


def _pull(
    logits: Float[Tensor, "row output"],
    wanted: Float[Tensor, "row output"],
    pos_weight: Float[Tensor, " output"],
) -> Float[Tensor, "row output"]:
    """Gradient of the mean weighted cross-entropy over the rows of a batch by its logits."""
    probs = logits.sigmoid()
    return (wanted * pos_weight * (probs - 1) + (1 - wanted) * probs) / len(logits)


def _standardise(
    features: Float[Tensor, "row vocab"],
) -> tuple[Float[Tensor, " vocab"], Float[Tensor, " vocab"]]:
    """z-scores rows in place; gives their mean and deviation (1 where that is 0)."""
    total, squares = torch.zeros(2, features.shape[1], device=features.device).unbind()
    for piece in features.split(ROWS_AT_ONCE):
        total += piece.float().sum(0)
    mean = total / len(features)
    for piece in features.split(ROWS_AT_ONCE):
        squares += (piece.float() - mean).square().sum(0)
    deviation = (squares / len(features)).sqrt()
    deviation[deviation == 0] = 1
    _apply_standard(features, mean, deviation)
    return mean, deviation


def _apply_standard(
    features: Float[Tensor, "row vocab"],
    mean: Float[Tensor, " vocab"],
    deviation: Float[Tensor, " vocab"],
) -> None:
    for piece in features.split(ROWS_AT_ONCE):
        piece.copy_((piece.float() - mean) / deviation)


def _columns(targets: np.ndarray, num_outputs: int, task: Task) -> Float[Tensor, "row output"]:
    wanted = torch.as_tensor(targets)
    if task == "multiclass":
        return F.one_hot(wanted.long(), num_outputs).float()
    return wanted.float().reshape(len(wanted), num_outputs)


def _probs(
    features: Float[Tensor, "row vocab"],
    weights: Float[Tensor, "vocab output"],
    bias: Float[Tensor, " output"],
    task: Task,
) -> Float[np.ndarray, "row output"]:
    logits = torch.cat([p.float() @ weights + bias for p in features.split(ROWS_AT_ONCE)])
    return (logits.softmax(-1) if task == "multiclass" else logits.sigmoid()).cpu().numpy()


def _a_state(place: Workplace) -> Float[Tensor, "row dim"]:
    return torch.zeros(1, place.states.backend.identity.dim)
