"""From hidden states and targets to trained probes: several configurations in one pass.

Promises the same weights for the same seeds, whatever trains beside, resumed or not. Does not know
engines, texts or label names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pillion.core import Shape
from pillion.errors import Interrupted
from pillion.extract import Progress, silent
from pillion.probe import Network
from pillion.probe.task import Task, num_outputs
from pillion.train.depths import check_depths
from pillion.train.examples import Examples, together
from pillion.train.learner import Curve, Learner
from pillion.train.prefixes import check_weighing
from pillion.train.run import TrainingRun
from pillion.train.settings import ProbeConfig, TrainSettings, require_configs

WORTH = 0.01
"""Share by which a run of twice as many epochs lowers the loss, if one of more is to follow."""


@dataclass(frozen=True)
class Trained:
    """A configuration that was trained.

    Attributes:
        config: what it is.
        network: with the weights of the best epoch, ready to evaluate.
        unbiased: the one that no validation row taught, whose metrics and thresholds on them count:
            `network` itself, unless that was fitted again with `TrainSettings.refit`.
        curve: validation metrics of every epoch.
        best_epoch: from 1; the one whose weights were kept.
        epochs: that its run was to have; its learning rate falls to 0 with the last.
        seconds: spent on its own steps, without reading states.
        solved: whether its weights were solved for, so that it has neither steps nor a rate.
    """

    config: ProbeConfig
    network: Network
    unbiased: Network
    curve: Curve
    best_epoch: int
    epochs: int
    seconds: float
    solved: bool = False


def train(
    training: Examples,
    validation: Examples,
    task: Task,
    num_labels: int,
    configs: Sequence[ProbeConfig],
    settings: TrainSettings | None = None,
    progress: Progress = silent,
    checkpoint: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    states: str = "",
) -> list[Trained]:
    """Every configuration, trained side by side while each batch of states is read once.

    Args:
        training: rows to learn from.
        validation: rows that choose the best epoch.
        task: what targets mean.
        num_labels: labels of the task (2 for binary).
        configs: one or more.
        settings: what they share; None for the defaults.
        progress: told of every step: as stage `train`, of runs of more epochs, and of `refit`.
        checkpoint: folder for what an interrupted run leaves; stays until the caller deletes it.
        device: where the probes are trained.
        states: what hidden states depend on, as a hash that a checkpoint has to agree in; empty
            where the folder itself is of one model and one set of texts.

    Raises:
        ConfigError: no configuration, prefixes that do not fit the task, depths that do not fit
            the layers or a probe, or the checkpoint is of another run.
        StateError: a loss is not finite.
        Interrupted: by Ctrl-C.
    """
    require_configs(list(configs))
    settings = settings or TrainSettings()
    check_weighing(settings.prefixes or "none", task)
    for config in configs if settings.depths else ():
        check_depths(config.probe)
    shape = Shape(len(training.source.layers), training.source.dim, num_outputs(task, num_labels))
    folder, place = Path(checkpoint) if checkpoint is not None else None, torch.device(device)
    runs = _Runs(configs, task, num_labels, settings, shape, place, progress, folder, states)
    # What is dropped is drawn anew each step; the caller's random state is left as it was.
    with torch.random.fork_rng(devices=[]):
        try:
            chosen = last = runs.chosen(training, validation)
            if settings.refit and validation is not training:
                # Rates are for steps of so many rows, and more rows do not make a step larger.
                size = {"batch_size": settings.rows_a_step(len(training.targets))}
                again = replace(runs, settings=settings.model_copy(update=size))
                last = again.again(together(training, validation), chosen)
        except KeyboardInterrupt as error:
            kept = "the same command resumes it" if checkpoint is not None else "nothing was kept"
            raise Interrupted(f"Training was interrupted; {kept}.") from error
    return [_trained(one, other) for one, other in zip(chosen, last, strict=True)]


def _trained(chosen: _Learnt, last: _Learnt) -> Trained:
    one, other = chosen.learner, last.learner
    return Trained(
        one.config,
        other.average,
        one.average,
        one.curve,
        one.best_epoch,
        chosen.epochs,
        one.seconds if one is other else one.seconds + other.seconds,
    )


@dataclass(frozen=True)
class _Learnt:
    """A configuration after the run of so many epochs, with the weights of its best one."""

    learner: Learner
    epochs: int

    @property
    def is_short(self) -> bool:
        """Whether its last epoch was its best, so that more may be better."""
        return self.learner.best_epoch == self.epochs

    def beats(self, other: _Learnt | None, share: float = 0.0) -> bool:
        """Whether its loss on validation rows is lower, by a share of the other's or more."""
        return other is None or self.learner.best_score > (1 - share) * other.learner.best_score


@dataclass(frozen=True)
class _Runs:
    """The runs of a training, and what they share."""

    configs: Sequence[ProbeConfig]
    task: Task
    num_labels: int
    settings: TrainSettings
    shape: Shape
    device: torch.device
    progress: Progress
    folder: Path | None
    states: str

    def chosen(self, training: Examples, validation: Examples) -> list[_Learnt]:
        """Every configuration, after as many epochs as suit it.

        Each decides for itself: what trains beside it changes nothing.
        """
        settings, found = self.settings, dict[int, _Learnt]()
        # Rows that were learnt from, and the last epoch, choose nothing.
        can_choose = validation is not training and settings.keep == "best"
        longest = settings.longest if can_choose else None
        epochs, wanted = settings.epochs, list(range(len(self.configs)))
        while wanted:
            run = self._begun(dict.fromkeys(wanted, 0), training, validation, epochs)
            learners = run.finish(self.progress, *self._place("train", epochs))
            tried = {at: _Learnt(one, epochs) for at, one in zip(wanted, learners, strict=True)}
            worth = [
                at for at, one in tried.items() if one.is_short and one.beats(found.get(at), WORTH)
            ]
            found |= {at: one for at, one in tried.items() if one.beats(found.get(at))}
            epochs *= 2
            wanted = worth if longest is not None and epochs <= longest else []
        return [found[at] for at in range(len(self.configs))]

    def again(self, every: Examples, chosen: Sequence[_Learnt]) -> list[_Learnt]:
        """Every configuration from all rows, for as many epochs of its run as were best."""
        found = dict[int, _Learnt]()
        for epochs in {one.epochs for one in chosen}:
            own = {
                at: one.learner.best_epoch for at, one in enumerate(chosen) if one.epochs == epochs
            }
            run = self._begun(own, every, None, epochs)
            learners = run.finish(self.progress, *self._place("refit", epochs))
            found |= {at: _Learnt(one, epochs) for at, one in zip(own, learners, strict=True)}
        return [found[at] for at in range(len(chosen))]

    def _begun(
        self, stops: Mapping[int, int], rows: Examples, held: Examples | None, epochs: int
    ) -> TrainingRun:
        """A run of so many epochs with some configurations, before its first.

        Args:
            stops: by their place: the epoch after which each stops; what `held` says where given.
            rows: to learn from.
            held: rows that choose an epoch.
            epochs: those of the run.
        """
        settings = self.settings.model_copy(update={"epochs": epochs})
        learners = [Learner.start(self.configs[at], self.shape, self.device) for at in stops]
        ends = () if held else tuple(stops.values())
        return TrainingRun(
            *(rows, held, self.task, self.num_labels, settings, learners, self.device, ends),
            states=self.states,
        )

    def _place(self, name: str, epochs: int) -> tuple[Path | None, str]:
        """Where a run leaves what it goes on from, and the stage that `progress` is told."""
        is_first = epochs == self.settings.epochs
        stage = name if is_first else f"{name}, {epochs} epochs"
        if self.folder is None or (is_first and name == "train"):
            return self.folder, stage
        return self.folder / (name if is_first else f"{name}-{epochs}"), stage
