"""From hidden states and targets to trained probes: several configurations in one pass.

Promises the same weights for the same seeds, whatever trains beside, resumed or not. Does not know
engines, texts or label names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped

from pillion.core import Shape
from pillion.errors import DataError, Interrupted
from pillion.extract import JoinedRows, Progress, StateSource, silent
from pillion.probe import Network
from pillion.probe.task import Task, class_weights, num_outputs
from pillion.train.checkpoint import load_checkpoint, save_checkpoint
from pillion.train.depths import check_depths, counts_of
from pillion.train.evaluate import evaluate_networks, score, shared_scale, validate
from pillion.train.learner import Curve, Learner, MicroBatch, learning_rate
from pillion.train.order import epoch_batches, parts
from pillion.train.prefixes import check_weighing, drawn
from pillion.train.reading import read_batches
from pillion.train.settings import ProbeConfig, TrainSettings, require_configs


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to validate on.

    Attributes:
        source: their hidden states.
        targets: as `LabelSpace.encode` gives them.
        weights: what each row counts in the loss, 1 on average; None where all count the same.
        goals: probabilities that the loss compares with, of the shape of binary or multi-label
            targets; None: the targets themselves. Thresholds and metrics are of targets alone.
    """

    source: StateSource
    targets: Shaped[np.ndarray, "row ..."]
    weights: Float[np.ndarray, " row"] | None = None
    goals: Float[np.ndarray, "row ..."] | None = None

    @property
    def wanted(self) -> Shaped[np.ndarray, "row ..."]:
        """What the loss compares with."""
        return self.targets if self.goals is None else self.goals

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.source.lengths) or not len(self.targets):
            raise DataError(
                f"Got {len(self.targets)} labels for {len(self.source.lengths)} rows; give one a "
                "row, and at least one row."
            )


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
        seconds: spent on its own steps, without reading states.
        solved: whether its weights were solved for, so that it has neither steps nor a rate.
    """

    config: ProbeConfig
    network: Network
    unbiased: Network
    curve: Curve
    best_epoch: int
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
) -> list[Trained]:
    """Every configuration, trained side by side while each batch of states is read once.

    Args:
        training: rows to learn from.
        validation: rows that choose the best epoch.
        task: what targets mean.
        num_labels: labels of the task (2 for binary).
        configs: one or more.
        settings: what they share; None for the defaults.
        progress: told of every step, as stage `train`.
        checkpoint: folder for what an interrupted run leaves; stays until the caller deletes it.
        device: where the probes are trained.

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
    folder = Path(checkpoint) if checkpoint is not None else None
    place = torch.device(device)

    def begin(
        training: Examples, held: Examples | None, epochs: Sequence[int] = ()
    ) -> _TrainingRun:
        learners = [Learner.start(c, shape, place) for c in configs]
        return _TrainingRun(training, held, task, num_labels, settings, learners, place, epochs)

    # What is dropped is drawn anew each step; the caller's random state is left as it was.
    with torch.random.fork_rng(devices=[]):
        try:
            chosen = last = begin(training, validation).finish(progress, folder)
            if settings.refit and validation is not training:
                every, epochs = together(training, validation), [one.best_epoch for one in chosen]
                last = begin(every, None, epochs).finish(progress, folder and folder / "refit")
        except KeyboardInterrupt as error:
            kept = "the same command resumes it" if checkpoint is not None else "nothing was kept"
            raise Interrupted(f"Training was interrupted; {kept}.") from error
    return [_trained(one, other) for one, other in zip(chosen, last, strict=True)]


def _trained(chosen: Learner, last: Learner) -> Trained:
    seconds = chosen.seconds if last is chosen else chosen.seconds + last.seconds
    return Trained(
        chosen.config, last.average, chosen.average, chosen.curve, chosen.best_epoch, seconds
    )


def together(training: Examples, validation: Examples) -> Examples:
    """The rows of both, one after the other."""
    has_goals = training.goals is not None or validation.goals is not None
    return Examples(
        JoinedRows(training.source, validation.source),
        np.concatenate([training.targets, validation.targets]),
        _joined_weights(training, validation),
        np.concatenate([training.wanted, validation.wanted]) if has_goals else None,
    )


def _joined_weights(*sides: Examples) -> Float[np.ndarray, " row"] | None:
    if all(one.weights is None for one in sides):
        return None
    each = [np.ones(len(one.targets)) if one.weights is None else one.weights for one in sides]
    return np.concatenate(each)


class _TrainingRun:
    """A run over the data; everything that its epochs share.

    Without validation rows each learner has its number of epochs, and its last one counts.
    """

    def __init__(
        self,
        training: Examples,
        validation: Examples | None,
        task: Task,
        num_labels: int,
        settings: TrainSettings,
        learners: list[Learner],
        device: torch.device,
        epochs: Sequence[int] = (),
    ) -> None:
        self.training, self.validation, self.epochs = training, validation, epochs
        self.task: Task = task
        self.settings, self.learners, self.device = settings, learners, device
        self.targets = torch.as_tensor(training.targets).to(device)
        self.goals = torch.as_tensor(training.wanted).to(device)
        self.row_weights = None
        if training.weights is not None:
            self.row_weights = torch.as_tensor(training.weights, dtype=torch.float32).to(device)
        self.weights = torch.ones(num_labels, device=device)
        if settings.class_weights == "balanced":
            self.weights = class_weights(task, self.targets.cpu(), num_labels).to(device)
        self.batch_size = settings.rows_a_step(len(training.targets))
        self.depths = counts_of(settings.depths, training.source.layers)
        self.steps_an_epoch = -(-len(training.targets) // self.batch_size)

    def finish(self, progress: Progress, folder: Path | None) -> list[Learner]:
        """The learners, with their best weights, after all epochs that are still to do."""
        identity = self._identity()
        epoch = load_checkpoint(folder, identity, self.learners) if folder else 0
        while epoch < self.settings.epochs and (learners := self._active()):
            self._train_epoch(epoch, learners, progress)
            self._validate(learners)
            epoch += 1
            if folder:
                save_checkpoint(folder, identity, epoch, self.learners)
        for learner in self.learners:
            learner.average.load_state_dict(learner.best)
        return self.learners

    def _active(self) -> list[Learner]:
        if self.validation is None:
            wanted = zip(self.learners, self.epochs, strict=True)
            return [one for one, epochs in wanted if len(one.curve) < epochs]
        return [one for one in self.learners if not one.stopped(self.settings.patience)]

    def _train_epoch(self, epoch: int, learners: list[Learner], progress: Progress) -> None:
        settings, lengths = self.settings, self.training.source.lengths
        stage = "train" if self.validation else "refit"
        batches = epoch_batches(lengths, self.batch_size, settings.order_seed, epoch)
        total = sum(lengths) * settings.epochs
        done = sum(lengths) * epoch
        num_steps = self.steps_an_epoch * settings.epochs
        best = max(one.best_score for one in learners)
        metric = best if epoch and self.validation and settings.keep == "best" else None
        for learner in learners:
            learner.loss_sum = 0.0
        first = epoch * self.steps_an_epoch
        for step, (row_ids, pieces) in enumerate(self._steps(batches, learners, first), first):
            for part in pieces:
                for learner in learners:
                    learner.accumulate(part, self.task, self.weights, step)
            for learner in learners:
                learner.step(learning_rate(step, num_steps, settings.warmup))
            done += sum(lengths[row_id] for row_id in row_ids)
            progress(stage, done, total, metric)

    def _steps(
        self, batches: list[list[int]], learners: list[Learner], first: int
    ) -> Iterator[tuple[list[int], Iterator[MicroBatch]]]:
        """Each step's rows and its pieces, which have to be used before the next step."""
        weighing = self.settings.prefixes or "none"
        lengths, networks = self.training.source.lengths, [one.network for one in learners]
        cut = [parts(row_ids, lengths, self.settings.max_tokens) for row_ids in batches]
        flat = [piece for pieces in cut for piece in pieces]
        states = read_batches(self.training.source, flat, self.device)

        def pieces_of(pieces: list[list[int]], step: int) -> Iterator[MicroBatch]:
            every = [row_id for piece in pieces for row_id in piece]
            longest = max(lengths[row_id] for row_id in every)
            prefixes = drawn(weighing, longest, self.settings.order_seed, step)
            for piece in pieces:
                hidden, mask = next(states)
                scale = shared_scale(networks, hidden)
                own = None if self.row_weights is None else self.row_weights[piece]
                targets, share = self.goals[piece], 1 / len(every)
                yield MicroBatch(hidden, mask, scale, targets, share, prefixes, self.depths, own)

        for step, (row_ids, pieces) in enumerate(zip(batches, cut, strict=True), first):
            yield row_ids, pieces_of(pieces, step)

    def _validate(self, learners: list[Learner]) -> None:
        if self.validation is None:
            for learner in learners:
                loss = learner.loss_sum / self.steps_an_epoch
                learner.note({"loss": loss}, float(len(learner.curve)))
            return
        networks = [one.average for one in learners]
        probs = evaluate_networks(networks, self.validation.source, self.task)
        targets = torch.as_tensor(self.validation.targets)
        goals = torch.as_tensor(self.validation.wanted)
        for learner, found in zip(learners, probs, strict=True):
            metrics = validate(self.task, found, targets, goals)
            metrics["loss"] = learner.loss_sum / self.steps_an_epoch
            latest = float(len(learner.curve))
            learner.note(metrics, score(metrics) if self.settings.keep == "best" else latest)

    def _identity(self) -> str:
        """What a checkpoint has to agree in to be this run's."""
        facts = {
            "configs": [one.config.model_dump() for one in self.learners],
            "settings": self.settings.model_dump(),
            "task": self.task,
            "layers": self.training.source.layers,
            "dim": self.training.source.dim,
            "epochs": list(self.epochs),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for examples in filter(None, (self.training, self.validation)):
            digest.update(np.asarray(examples.source.lengths, dtype=np.int64).tobytes())
            digest.update(np.ascontiguousarray(examples.targets).tobytes())
            for more in (examples.weights, examples.goals):
                if more is not None:
                    digest.update(np.ascontiguousarray(more).tobytes())
        return digest.hexdigest()
