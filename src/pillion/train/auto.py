"""Which probe some rows ask for: one in closed form, a gate or several, by cross-validation.

Promises a probe that is served like any other, learnt from all rows, and what every candidate said
of rows that it had not seen. Does not know engines or label names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from pillion.extract import Progress, SelectedRows, pooled_source, silent
from pillion.metrics import evaluate, leading_metric
from pillion.probe.task import Task, num_outputs, probabilities
from pillion.train.closed import MOST_ROWS, PROBE, solve
from pillion.train.evaluate import evaluate_networks, validate
from pillion.train.examples import Examples, together
from pillion.train.loop import Trained, train
from pillion.train.settings import ProbeConfig, TrainSettings

FOLDS = 3
GATES: dict[str, dict[str, Any]] = {"gate": {}, "gates": {"members": 3}}
"""Candidates that are trained, with their settings on top of a gate's own."""


@dataclass(frozen=True)
class Chosen:
    """The probe that was chosen.

    Attributes:
        trained: the probe.
        facts: what was chosen, by what, and how good every candidate was.
    """

    trained: Trained
    facts: dict[str, Any]


def choose_probe(
    training: Examples,
    validation: Examples,
    task: Task,
    num_labels: int,
    settings: TrainSettings | None = None,
    seed: int = 0,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    states: str = "",
    times: int = 1,
) -> Chosen:
    """The candidate that is best on rows that it has not seen, learnt from all of them.

    With up to `MOST_ROWS` rows of both parts, a probe in closed form is a candidate, left-out row
    by row (rows of one group together), and gates are judged by folds of these rows. With more, and
    where labels are weighed, some rows are not judged, all rows are one group or prefixes are
    learnt (which it knows nothing of), gates alone are candidates, judged by the validation rows.

    Args:
        training: rows to learn from.
        validation: rows that choose epochs, thresholds and, where rows are many, the probe.
        task: what targets mean.
        num_labels: labels of the task (2 for binary).
        settings: of the training of gates; None for the defaults.
        seed: of gates and folds.
        progress: told of every step.
        checkpoint: folder for what an interrupted run leaves; stays until the caller deletes it.
        device: where gates are trained.
        states: see `train`.
        times: how often each validation row is among them, such as alone and in a context.

    Raises:
        StateError: a loss is not finite.
        Interrupted: by Ctrl-C.
    """
    settings = settings or TrainSettings()
    run = _AutoTraining(
        *(training, validation, task, num_labels, settings, seed, progress, checkpoint, device),
        states=states,
        times=times,
    )
    every = training if validation is training else together(training, validation)
    plain = settings.class_weights == "none" and settings.prefixes in (None, "none")
    judged = np.isfinite(np.asarray(every.targets, dtype=float)).all()
    parted = every.groups is None or len(np.unique(every.groups)) > 1
    if len(every.targets) <= MOST_ROWS and plain and judged and parted:
        return run.by_folds(every)
    return run.by_validation()


@dataclass(frozen=True)
class _AutoTraining:
    training: Examples
    validation: Examples
    task: Task
    num_labels: int
    settings: TrainSettings
    seed: int
    progress: Progress
    checkpoint: Path | None
    device: torch.device | str
    states: str
    times: int

    def by_validation(self) -> Chosen:
        """Gates alone, by the validation rows."""
        trained = self._train(self.training, self.validation, self._configs, "all")
        said = evaluate_networks(
            [one.unbiased for one in trained], self.validation.source, self.task
        )
        found = {
            name: self._quality(probs, self.validation.targets)
            for name, probs in zip(GATES, said, strict=True)
        }
        best = _best(found)
        rows = f"{len(self.validation.targets):,} validation rows"
        return Chosen(trained[[*GATES].index(best)], self._facts(best, rows, found))

    def by_folds(self, every: Examples) -> Chosen:
        """A probe in closed form and gates, each asked about rows that it has not seen."""
        outputs = num_outputs(self.task, self.num_labels)
        states = pooled_source(every.source, "mean-rms")
        whole = solve(states, every.targets, self.task, outputs, every.groups)
        said = {PROBE: probabilities(self.task, whole.left_out)} | self._of_folds(every)
        found = {name: self._quality(probs, every.targets) for name, probs in said.items()}
        best = _best(found)
        facts = self._facts(best, f"{len(every.targets):,} rows, left out in turns", found)
        if best != PROBE:
            config = self._configs[[*GATES].index(best)]
            (trained,) = self._train(self.training, self.validation, [config], "all")
            return Chosen(trained, facts)
        learn = len(self.training.targets)
        own = self.training
        part = whole
        if self.validation is not own:
            part = solve(states[:, :learn], own.targets, self.task, outputs, own.groups)
        (probs,) = evaluate_networks([part.network], self.validation.source, self.task)
        curve = [validate(self.task, probs, torch.as_tensor(self.validation.targets))]
        config = ProbeConfig(probe=PROBE)
        trained = Trained(config, whole.network, part.network, curve, 1, 1, 0.0, solved=True)
        return Chosen(trained, facts | {"penalty": whole.penalty})

    @property
    def _configs(self) -> list[ProbeConfig]:
        return [ProbeConfig(probe="gate", settings=own, seed=self.seed) for own in GATES.values()]

    def _of_folds(self, every: Examples) -> dict[str, Float[Tensor, "row output"]]:
        """What gates say of the rows that are held back in each fold."""
        outputs = num_outputs(self.task, self.num_labels)
        found = {name: torch.zeros(len(every.targets), outputs) for name in GATES}
        for fold, (learn, held) in enumerate(folds(every.targets, self.seed, every.groups)):
            asked = _some(every, held)
            trained = self._train(_some(every, learn), asked, self._configs, f"fold-{fold}")
            networks = [one.unbiased for one in trained]
            said = evaluate_networks(networks, asked.source, self.task)
            for own, probs in zip(found.values(), said, strict=True):
                own[held] = probs
        return found

    def _train(
        self, training: Examples, held: Examples, configs: list[ProbeConfig], name: str
    ) -> list[Trained]:
        rows = self.settings.rows_a_step(len(training.targets))
        times = self.times if name == "all" else 1
        settings = self.settings.for_rows(len(training.targets), len(held.targets) // times)
        if name == "all":
            refit = len(training.targets) + len(held.targets) <= MOST_ROWS
            settings = settings.model_copy(update={"refit": settings.refit or refit})
        else:
            # Folds compare probes; five times as many runs of more epochs would change little.
            settings = settings.model_copy(update={"longest": None})
        return train(
            training,
            held,
            self.task,
            self.num_labels,
            [config.at_batch(rows) for config in configs],
            settings,
            self.progress,
            checkpoint=self.checkpoint and self.checkpoint / name,
            device=self.device,
            states=self.states,
        )

    def _quality(
        self, probs: Float[Tensor, "row output"], targets: Shaped[np.ndarray, "row ..."]
    ) -> dict[str, float | None]:
        name, said = leading_metric(self.task), probs.numpy()
        return evaluate(said, targets, self.task, names=(name,)) | {
            "log_loss": validate(self.task, probs, torch.as_tensor(targets))["log_loss"]
        }

    def _facts(
        self, best: str, rows: str, found: dict[str, dict[str, float | None]]
    ) -> dict[str, Any]:
        return {"chosen": best, "by": f"{leading_metric(self.task)} of {rows}", "tried": found}


def _best(found: dict[str, dict[str, float | None]]) -> str:
    """The highest score; of equals (or where it is undefined) the lowest log-loss."""

    def rank(name: str) -> tuple[float, float]:
        score, loss = found[name].values()
        return (-1.0 if score is None else score), -(loss or 0.0)

    return max(found, key=rank)


def folds(
    targets: Shaped[np.ndarray, "row ..."],
    seed: int,
    groups: Int[np.ndarray, " row"] | None = None,
) -> Iterator[tuple[Int[np.ndarray, " learn"], Int[np.ndarray, " held"]]]:
    """Row ids to learn from and to hold back, stratified; every row is held back once.

    As many folds as the rarest label has rows, from two to `FOLDS`. Rows of several labels are
    stratified by the rarest that each has, and so are groups, which stay together.

    Args:
        targets: label ids, or 0/1 a label.
        seed: of the draw.
        groups: as of `Examples`; two or more.
    """
    strata = targets
    if targets.ndim == 2:
        counts = np.where(targets > 0, targets.sum(0), len(targets) + 1)
        strata = np.where((targets > 0).any(1), counts.argmin(1), targets.shape[1])
    whose = np.arange(len(strata)) if groups is None else np.unique(groups, return_inverse=True)[1]
    strata = _of_groups(strata, whose)
    _, sizes = np.unique(strata, return_counts=True)
    number = int(np.clip(sizes.min(), 2, FOLDS))
    splits = StratifiedKFold(number, shuffle=True, random_state=seed % 2**32)
    rare = np.isin(strata, np.unique(strata)[sizes < 2])
    # A label of one row cannot be on both sides; it is dealt out with the largest.
    strata = np.where(rare, np.unique(strata)[sizes.argmax()], strata)
    for learn, held in splits.split(np.zeros(len(strata)), strata):
        yield np.flatnonzero(np.isin(whose, learn)), np.flatnonzero(np.isin(whose, held))


def _of_groups(
    strata: Int[np.ndarray, " row"], whose: Int[np.ndarray, " row"]
) -> Int[np.ndarray, " group"]:
    """The rarest stratum of each group's rows."""
    _, own, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    rarest = np.lexsort((sizes[own], whose))
    return strata[rarest][np.unique(whose[rarest], return_index=True)[1]]


def _some(examples: Examples, rows: Int[np.ndarray, " some"]) -> Examples:
    return Examples(SelectedRows(examples.source, rows), examples.targets[rows])
