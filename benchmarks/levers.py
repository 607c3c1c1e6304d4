"""Cheap changes of how a gate is trained, each beside the plain one: which of them is worth it?

    python -m benchmarks.levers DATA [--rows N] [--ways NAME ...] [--states FOLDER] [--folds N]

Development only: training rows of a set, dealt into folds; what each way says of the rows that
are held out is put together and measured as one. A share of the other rows chooses the epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.accuracy import run_folder
from benchmarks.folds import (
    CHOOSING,
    EVERY,
    SEEDS,
    Learning,
    Way,
    drawn,
    measured,
    out_of_fold,
    plain,
)
from benchmarks.result_file import DATA, data_entry, write_result
from benchmarks.states import every_layer, kept_layers
from pillion.backends import Backend, load_backend
from pillion.core import Shape, Template
from pillion.data import LabelSpace, read_rows
from pillion.extract import StateSource
from pillion.probe import Network, build
from pillion.probe.task import Task, loss
from pillion.train import Examples, ProbeConfig

BEFORE_ROWS = 2000
"""Drawn of the other set."""


@dataclass(frozen=True)
class Set:
    """Rows to learn from, and other rows that a gate may have learnt from before.

    Attributes:
        file: below the data folder.
        template: how the model is shown a row.
        positive: the label that is looked for; None for several labels.
        before: another set, for a start that is not drawn.
    """

    file: str
    template: Template
    positive: str | None
    before: str


SETS = {
    "toxicchat": Set(
        "toxicchat_0124_human/train.parquet", "chat", "toxic", "emotion/train.parquet"
    ),
    "emotion": Set("emotion/train.parquet", "raw", None, "sst2/train.parquet"),
    "banking77": Set("banking77/train.parquet", "raw", None, "sst2/train.parquet"),
    "sst2": Set("sst2/train.parquet", "raw", "positive", "emotion/train.parquet"),
}


def patched(name: str, own: Callable[..., Any], learnt: Way) -> Way:
    """A way whose learners have another function of this name; what chooses an epoch stays."""

    def way(learning: Learning, rows: Examples, choosing: Examples) -> list[Network]:
        with mock.patch(f"pillion.train.learner.{name}", own):
            return learnt(learning, rows, choosing)

    return way


def smoothed(share: float) -> Way:
    """Targets drawn towards all labels alike by a share, in the loss alone."""

    def own(task: Task, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        if task == "multiclass":
            return F.cross_entropy(
                logits.float(), targets.long(), label_smoothing=share, reduction="none"
            )
        return loss(task, logits, targets.float() * (1 - share) + share / 2, weights)

    return patched("loss", own, plain)


def mixed(alpha: float, learnt: Way = plain) -> Way:
    """Mixup (arXiv 1710.09412) of pooled states: a gate's logits are linear in them.

    Each row of a step is mixed with another, by a share drawn of Beta(alpha, alpha).
    """

    def own(task: Task, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        order = torch.randperm(len(logits))
        share = torch.distributions.Beta(alpha, alpha).sample((len(logits), 1))
        both = share * logits + (1 - share) * logits[order]
        first, second = (loss(task, both, goal, weights) for goal in (targets, targets[order]))
        return share[:, 0] * first + (1 - share[:, 0]) * second

    return patched("loss", own, learnt)


def balanced(learning: Learning, rows: Examples, choosing: Examples) -> list[Network]:
    """All labels count the same."""
    return learning(rows, choosing, class_weights="balanced")


def merged(learning: Learning, rows: Examples, choosing: Examples) -> list[Network]:
    """The mean of the weights of gates that began alike and saw the rows in other orders."""
    one = [ProbeConfig(seed=0)]
    every = [learning(rows, choosing, one, order_seed=order)[0] for order in SEEDS]
    mean = deepcopy(every[0])
    with torch.no_grad():
        for own, *others in zip(
            mean.parameters(), *(one.parameters() for one in every), strict=True
        ):
            own.copy_(torch.stack(others).mean(0))
    return [mean]


def members(learning: Learning, rows: Examples, choosing: Examples) -> list[Network]:
    """Three gates as members of one, which costs three times as much: what a merger is held to."""
    return learning(rows, choosing, [ProbeConfig(settings={"members": 3})])


def started(before: Sequence[Network]) -> Way:
    """Scores of tokens and layers begin as another set has taught them, one gate a seed."""

    def begun(probe: str, shape: Shape, settings: Any, seed: int) -> Network:
        network: Any = build(probe, shape, settings, seed)
        taught: Any = before[SEEDS.index(seed)]
        with torch.no_grad():
            network.token_score.copy_(taught.token_score)
            network.layer_score.copy_(taught.layer_score)
        return network

    return patched("build", begun, plain)


BEFORE = "scores of another set"
WAYS: dict[str, Way] = {
    "plain": plain,
    "label smoothing 0.05": smoothed(0.05),
    "label smoothing 0.1": smoothed(0.1),
    "mixup 0.2": mixed(0.2),
    "mixup 1": mixed(1.0),
    "mixup 4": mixed(4.0),
    "balanced labels": balanced,
    "weights of three merged": merged,
    "three members": members,
    "three members, mixup 0.2": mixed(0.2, members),
    "three members, mixup 1": mixed(1.0, members),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=SETS)
    parser.add_argument("--rows", type=int, help="drawn of the file; default: all")
    parser.add_argument("--ways", nargs="+", default=[*WAYS, BEFORE], choices=[*WAYS, BEFORE])
    parser.add_argument("--states", type=Path, help="keep hidden states here")
    parser.add_argument("--folds", type=int, default=3)
    options = parser.parse_args()
    chosen, backend = SETS[options.data], load_backend()
    layers = every_layer(backend, EVERY)
    with run_folder(options.states) as folder, ExitStack() as opened:
        states = Kept(backend, layers, chosen.template, folder, opened)
        texts, targets, learning, source = states.of(
            "train", chosen.file, options.rows, chosen.positive
        )
        ways = {name: way for name, way in WAYS.items() if name in {"plain", *options.ways}}
        if BEFORE in options.ways:
            ways[BEFORE] = started(taught(states, chosen))
        said = out_of_fold(
            {name: (source, way) for name, way in ways.items()},
            targets,
            texts,
            options.folds,
            learning,
        )
    settings = {
        "model": "embedded",
        "probe": "gate",
        "rows": len(targets),
        "layers": list(layers),
        "template": chosen.template,
        "scope": "all",
        "folds": options.folds,
        "choosing_share": CHOOSING,
        "another_set": {"file": chosen.before, "rows": BEFORE_ROWS},
        "seeds": list(SEEDS),
    }
    results = list(measured(said, targets, learning.task))
    data = [data_entry(DATA / chosen.file, "train, in folds")]
    write_result(f"levers-{options.data}-validation", results, seed=0, settings=settings, data=data)


@dataclass(frozen=True)
class Kept:
    """Where states of rows are made and kept."""

    backend: Backend
    layers: tuple[int, ...]
    template: Template
    folder: Path
    opened: ExitStack

    def of(
        self, name: str, file: str, count: int | None, positive: str | None = None
    ) -> tuple[list[Any], np.ndarray, Learning, StateSource]:
        """Texts, targets, what these mean, and states of rows of a file."""
        rows = drawn(read_rows(DATA / file), count)
        space = LabelSpace.of(rows.labels or (), positive)
        targets = space.encode(rows.labels or ())
        learning = Learning(space.task, len(space.names))
        place = self.folder / name
        source = kept_layers(
            self.backend, rows.texts, self.template, self.layers, place, self.opened
        )
        return list(rows.texts), targets, learning, source


def taught(states: Kept, chosen: Set) -> list[Network]:
    """A gate of each seed, from the other set."""
    _, targets, learning, source = states.of("before", chosen.before, BEFORE_ROWS)
    rows = Examples(source, targets)
    return plain(learning, rows, rows)


if __name__ == "__main__":
    main()
