"""One run over the rows: several learners, epoch after epoch, each batch of states read once.

Promises that an interrupted run goes on where it was, and gives the same weights then. Does not
know which runs there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from pillion.extract import Progress
from pillion.probe.task import Task, class_weights
from pillion.train.checkpoint import load_checkpoint, save_checkpoint
from pillion.train.depths import counts_of
from pillion.train.evaluate import CRITERION, evaluate_networks, score, shared_scale, validate
from pillion.train.examples import Examples
from pillion.train.learner import Learner, MicroBatch, learning_rate
from pillion.train.order import epoch_batches, parts
from pillion.train.prefixes import drawn
from pillion.train.reading import read_batches
from pillion.train.settings import TrainSettings


class TrainingRun:
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
        states: str = "",
    ) -> None:
        self.training, self.validation, self.epochs = training, validation, epochs
        self.states = states
        self.task: Task = task
        self.settings, self.learners, self.device = settings, learners, device
        self.goals = goals = torch.as_tensor(training.wanted).to(device)
        self.row_weights = rows = None
        if training.weights is not None:
            rows = torch.as_tensor(training.weights, dtype=torch.float32)
            self.row_weights = rows.to(device)
        self.weights = torch.ones(num_labels, device=device)
        if settings.class_weights == "balanced":
            self.weights = class_weights(task, goals.cpu(), num_labels, rows).to(device)
        self.batch_size = settings.rows_a_step(len(training.targets))
        self.depths = counts_of(settings.depths, training.source.layers)
        self.steps_an_epoch = -(-len(training.targets) // self.batch_size)

    def finish(self, progress: Progress, folder: Path | None, stage: str) -> list[Learner]:
        """The learners, with their best weights, after all epochs that are still to do.

        Args:
            progress: told of every step.
            folder: where each epoch leaves what the run goes on from.
            stage: what `progress` is told that this is.
        """
        identity = self._identity()
        epoch = load_checkpoint(folder, identity, self.learners) if folder else 0
        while epoch < self.settings.epochs and (learners := self._active()):
            self._train_epoch(epoch, learners, progress, stage)
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
        patience = self.settings.patience or self.settings.epochs
        return [one for one in self.learners if not one.stopped(patience)]

    def _train_epoch(
        self, epoch: int, learners: list[Learner], progress: Progress, stage: str
    ) -> None:
        settings, lengths = self.settings, self.training.source.lengths
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
        """Takes down how good an epoch has left each.

        Raises:
            StateError: the last step of one has left weights or probabilities not finite.
        """
        for learner in learners:
            learner.check_weights()
        if self.validation is None:
            for learner in learners:
                loss = learner.loss_sum / self.steps_an_epoch
                learner.note({"loss": loss}, float(len(learner.curve)))
            return
        networks = [one.average for one in learners]
        probs = evaluate_networks(networks, self.validation.source, self.task)
        targets = torch.as_tensor(self.validation.targets)
        own = self.validation.goals
        goals = None if own is None else torch.as_tensor(own)
        for learner, found in zip(learners, probs, strict=True):
            if not bool(found.isfinite().all()):
                raise learner.diverged("A probability", "of a validation row is not finite")
            metrics = validate(self.task, found, targets, goals)
            metrics["loss"] = learner.loss_sum / self.steps_an_epoch
            latest = float(len(learner.curve))
            learner.note(metrics, score(metrics) if self.settings.keep == "best" else latest)

    def _identity(self) -> str:
        """What a checkpoint has to agree in to be this run's."""
        facts = {
            "configs": [one.config.model_dump() for one in self.learners],
            # `longest` says which runs there are, and nothing of any one of them.
            "settings": self.settings.model_dump(exclude={"longest"}),
            "task": self.task,
            "layers": self.training.source.layers,
            "dim": self.training.source.dim,
            "epochs": list(self.epochs),
        }
        if self.validation is not None and self.settings.keep == "best":
            facts["criterion"] = CRITERION
        if self.states:
            facts["states"] = self.states
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for examples in filter(None, (self.training, self.validation)):
            digest.update(np.asarray(examples.source.lengths, dtype=np.int64).tobytes())
            digest.update(np.ascontiguousarray(examples.targets).tobytes())
            for more in (examples.weights, examples.goals):
                if more is not None:
                    digest.update(np.ascontiguousarray(more).tobytes())
        return digest.hexdigest()
