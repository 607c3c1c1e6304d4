"""The probes of a study: on all rows, on shuffled labels, and on few rows.

Knows training, no metric but those of the learning curves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from pillion.data import LabelSpace
from pillion.extract import Progress, SelectedRows
from pillion.metrics import evaluate, leading_metric
from pillion.probe import Network
from pillion.train import Examples, Trained, train
from pillion_bench.real.answers import scores_to_probs
from pillion_bench.real.closed_forms import ClosedForm
from pillion_bench.real.curve import Pooled, fit_scores
from pillion_bench.real.reading import Read
from pillion_bench.real.sets import TextSet, nested_rows
from pillion_bench.real.settings import RealSettings

SMALLEST = 8
EVERYWHERE = ("probe", "shuffled")
"""Networks that are asked about all sets; the others are points of learning curves."""


@dataclass(eq=False)
class Networks:
    """What was trained.

    Attributes:
        by_name: `probe`, `shuffled`, and `curve-SEED-ROWS`.
        best_epochs: of each.
        subsets: name of a point -> the training rows that it saw.
        heads: closed forms by name, once they are chosen.
    """

    by_name: dict[str, Network] = field(default_factory=dict[str, Network])
    best_epochs: dict[str, int] = field(default_factory=dict[str, int])
    subsets: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    heads: dict[str, Callable[[], ClosedForm]] = field(
        default_factory=dict[str, Callable[[], ClosedForm]]
    )

    def add(self, name: str, trained: Trained) -> None:
        """Takes one in."""
        self.by_name[name] = trained.network
        self.best_epochs[name] = trained.best_epoch


def train_all(
    reading: Read,
    targets: Int[np.ndarray, " row"],
    fit_ids: Int[np.ndarray, " some"],
    held_ids: Int[np.ndarray, " other"],
    space: LabelSpace,
    settings: RealSettings,
    work: Path,
    progress: Progress,
    say: Callable[[str], object],
) -> Networks:
    """Trains the probe, the control and the points of the learning curves.

    Args:
        reading: states of the training rows.
        targets: of the training rows, validation among them.
        fit_ids: rows to learn from.
        held_ids: rows that choose the epoch.
        space: the labels.
        settings: of probe and training.
        work: folder for what an interrupted training leaves.
        progress: told of every step.
        say: told which is trained.
    """
    found = Networks()

    def fit(name: str, rows: np.ndarray, wanted: np.ndarray) -> None:
        say(f"Training {name} on {len(rows):,} rows.")
        source = reading.train.source
        parts = [Examples(SelectedRows(source, ids), wanted[ids]) for ids in (rows, held_ids)]
        config = settings.config.at_batch(settings.train.rows_a_step(len(rows)))
        (trained,) = train(
            parts[0],
            parts[1],
            space.task,
            len(space.names),
            [config],
            settings.train.for_few(len(rows), len(held_ids)),
            progress,
            checkpoint=work / f"train-{name}",
        )
        found.add(name, trained)

    fit("probe", fit_ids, targets)
    fit("shuffled", fit_ids, _dealt(targets, fit_ids, held_ids, settings.seed))
    for seed in range(settings.curve_seeds):
        for rows in nested_rows(targets[fit_ids], SMALLEST, settings.seed + seed)[:-1]:
            name = f"curve-{seed}-{len(rows)}"
            found.subsets[name] = fit_ids[rows]
            fit(name, fit_ids[rows], targets)
    return found


def _dealt(targets: np.ndarray, fit_ids: np.ndarray, held_ids: np.ndarray, seed: int) -> np.ndarray:
    """Labels dealt anew among training rows, and among validation rows."""
    random, dealt = np.random.default_rng(seed), targets.copy()
    for ids in (fit_ids, held_ids):
        dealt[ids] = targets[ids][random.permutation(len(ids))]
    return dealt


def curve_results(
    networks: Networks,
    reading: Read,
    pooled: Pooled,
    fit_ids: np.ndarray,
    held_ids: np.ndarray,
    test: TextSet,
    space: LabelSpace,
    probe: str,
) -> list[dict[str, Any]]:
    """AUPRC (multi-class: accuracy) on the test by rows that were learnt from, for every head.

    Args:
        networks: trained; with the heads.
        reading: what the networks said, and pooled states of the test.
        pooled: states of the training rows.
        fit_ids: all rows to learn from.
        held_ids: validation rows.
        test: the set.
        space: the labels.
        probe: its name on the page.
    """
    if not networks.subsets:
        return []
    asked = Pooled(reading.test.means, test.targets)
    held = pooled.rows(held_ids)
    outputs = reading.said["probe"][0].shape[1]
    points: dict[tuple[str, int], list[float | None]] = {}
    metric = leading_metric(space.task)

    def add(method: str, rows: int, probs: np.ndarray) -> None:
        value = evaluate(probs, test.targets, space.task)[metric]
        points.setdefault((method, rows), []).append(value)

    subsets = {**networks.subsets, "probe": fit_ids}
    for name, rows in subsets.items():
        add(probe, len(rows), reading.said[name][1][: len(test)])
        for method, head in networks.heads.items():
            train_rows = pooled.rows(rows)
            scores = [fit_scores(head(), train_rows, one, outputs) for one in (held, asked)]
            add(
                method,
                len(rows),
                scores_to_probs(space.task, scores[0], held.targets, scores[1])[1],
            )
    return [
        {
            "step": "curve",
            "set": test.name,
            "method": method,
            "metric": metric,
            "train_rows": rows,
            "value": None
            if None in values
            else float(np.mean([v for v in values if v is not None])),
            "per_seed": values,
            "rows": len(test),
        }
        for (method, rows), values in sorted(points.items(), key=lambda item: item[0])
    ]
