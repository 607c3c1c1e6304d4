"""MULI: sparse logistic regression on the logits of the first response token.

arXiv 2405.18822: `ln p - ln(1 - p)` over the whole vocabulary, z-scored by the training rows, one
linear unit, binary cross-entropy with weight n_neg / n_pos on positives plus an L1 penalty. With
more than two labels there is one such unit a label. The paper takes 500 epochs of SGD at a penalty
of 1e-3; here the same loss is at its optimum, and the penalty is chosen on validation rows. Logits
come from the last token's state of the last layer, so that nothing vocabulary-wide is kept on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pillion.backends import Backend
from pillion.core import Template
from pillion.data.labels import Task
from pillion.extract import Progress
from pillion_bench.baselines.base import Method, Outcome, Serving, Settings, Workplace
from pillion_bench.baselines.lasso import Unit, constant, fit_unit
from pillion_bench.choice import Quality, best_of, is_at_edge, judges, quality, together, widened
from pillion_bench.problem import Part, Problem, columns

ROWS_AT_ONCE = 256
CERTAIN = 16.0
"""Logit of an output that every training row has."""


class MuliSettings(Settings):
    """Settings of MULI.

    Attributes:
        template: how a text is shown; None: as the data set says. The first response token is
            that of an answer under `chat`.
        penalties: values to begin with; beyond an edge that is best more are tried.
    """

    template: Template | None = None
    penalties: tuple[float, ...] = (1e-2, 1e-1)


class Muli(Method):
    """One linear unit a label on the whole vocabulary's log-odds."""

    Settings: ClassVar[type[Settings]] = MuliSettings

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`.

        Raises:
            ConvergenceError: a unit does not get to its optimum.
        """
        problem, states, template = place.problem, place.states, self.settings.template

        def raw(part: Part) -> Float[Tensor, "row vocab"]:
            return log_odds(states.backend, states.last_states(part, template))

        train = raw(problem.train)
        mean, deviation = _standardise(train)

        def features(part: Part) -> Float[Tensor, "row vocab"]:
            rows = raw(part)
            _apply_standard(rows, mean, deviation)
            return rows

        held = features(problem.validation)
        every = torch.cat([train, held])
        units, facts = self._chosen(problem, every, place.progress)

        def ask(part: Part) -> np.ndarray:
            return _probs(features(part), units, problem.task)

        size = (train.shape[1] + 1) * len(units)
        yield Outcome(_probs(held, units, problem.task), ask, size, facts)

    def _chosen(
        self, problem: Problem, every: Float[Tensor, "row vocab"], progress: Progress
    ) -> tuple[list[Unit], dict[str, Any]]:
        """The units of the penalty that is best, and what it was chosen from.

        Args:
            problem: the rows.
            every: features of training and validation rows, in this order.
            progress: told of every penalty, as stage `muli`.
        """
        num_train, task = len(problem.train), problem.task
        targets = np.concatenate([problem.train.targets, problem.validation.targets])
        wanted = columns(targets, problem.num_outputs)
        parts = judges(num_train, len(every) - num_train)
        # Of each part the units of the last penalty, where those of the next one begin.
        before: list[list[Unit] | None] = [None] * len(parts)
        fitted: dict[float, list[Unit]] = {}

        def measure(penalty: float) -> Quality:
            found: list[Quality] = []
            for place, (learn, held) in enumerate(parts):
                units = fit_units(every[learn], wanted[learn], penalty, before[place])
                before[place] = fitted[penalty] = units
                said = _probs(every[held], units, task)
                found.append(quality(problem.leading[0], task, said, targets[held]))
            progress("muli", len(fitted), len(self.settings.penalties))
            return together(found)

        tried = widened(self.settings.penalties, measure)
        penalty = best_of(tried)
        units = fitted[penalty]
        if len(parts) > 1:
            units = fit_units(every[:num_train], wanted[:num_train], penalty, units)
        return units, {
            "penalty": penalty,
            "tried": {f"{value:g}": one.facts for value, one in sorted(tried.items())},
            "at_edge": is_at_edge(tried),
            "tokens": [len(unit.places) for unit in units],
            "log_loss": tried[penalty].log_loss,
        }

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
    wanted: Float[np.ndarray, "row output"],
    penalty: float,
    before: Sequence[Unit] | None = None,
) -> list[Unit]:
    """The unit of every output, at its optimum.

    Args:
        features: z-scored log-odds.
        wanted: 0 or 1 of every output.
        penalty: weight of the L1 penalty.
        before: units of another penalty, to begin at.

    Raises:
        ConvergenceError: a unit does not get to its optimum.
    """
    features = features.cpu()
    found: list[Unit] = []
    for place, truth in enumerate(wanted.T.astype(float)):
        positives = truth.sum()
        if not 0 < positives < len(truth):
            # Of a label that no row has, or every row, nothing can be learnt.
            found.append(constant(CERTAIN if positives else -CERTAIN))
            continue
        row_weights = np.where(truth == 1, (len(truth) - positives) / positives, 1.0)
        start = before[place] if before is not None else None
        found.append(fit_unit(features, truth, row_weights, penalty, start))
    return found


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


def _probs(
    features: Float[Tensor, "row vocab"], units: Sequence[Unit], task: Task
) -> Float[np.ndarray, "row output"]:
    weights = torch.stack([unit.dense(features.shape[1]) for unit in units], 1)
    weights, bias = weights.to(features.device), torch.tensor([unit.bias for unit in units])
    pieces = features.split(ROWS_AT_ONCE)
    logits = torch.cat([piece.float() @ weights for piece in pieces]).cpu() + bias
    return (logits.softmax(-1) if task == "multiclass" else logits.sigmoid()).numpy()


def _a_state(place: Workplace) -> Float[Tensor, "row dim"]:
    return torch.zeros(1, place.states.backend.identity.dim)
