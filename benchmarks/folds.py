"""Ways to train on training rows, each measured on the rows that it is not shown, in folds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.model_selection import StratifiedGroupKFold

from pillion.core import Text
from pillion.data import Rows, normalised, split_validation
from pillion.extract import SelectedRows, StateSource
from pillion.metrics import evaluate, interval
from pillion.probe import Network
from pillion.probe.task import Task, num_outputs
from pillion.train import Examples, ProbeConfig, TrainSettings, evaluate_networks, train

SEEDS = (0, 1, 2)
CHOOSING, EVERY = 0.15, 2
METRICS: Mapping[Task, tuple[str, ...]] = {
    "binary": ("auprc", "auroc"),
    "multiclass": ("accuracy", "auprc"),
}
Probs = Float[np.ndarray, "row output seed"]


@dataclass(frozen=True)
class Learning:
    """What targets mean, and a gate of each seed from them."""

    task: Task
    num_labels: int

    def __call__(
        self,
        rows: Examples,
        choosing: Examples,
        configs: Sequence[ProbeConfig] = tuple(ProbeConfig(seed=seed) for seed in SEEDS),
        **settings: Any,
    ) -> list[Network]:
        """The networks of configurations, gates of each seed unless given."""
        how = TrainSettings(epochs=8, **settings)
        size = how.rows_a_step(len(rows.targets))
        sized = [config.at_batch(size) for config in configs]
        return [
            one.network for one in train(rows, choosing, self.task, self.num_labels, sized, how)
        ]


Way = Callable[[Learning, Examples, Examples], list[Network]]
"""From rows to learn from and rows that choose to the networks of the seeds, or one of them all."""


def plain(learning: Learning, rows: Examples, choosing: Examples) -> list[Network]:
    """A gate of each seed, as it is trained."""
    return learning(rows, choosing)


def drawn(rows: Rows, count: int | None) -> Rows:
    """Some rows, or all."""
    if count is None:
        return rows
    return rows.some(np.sort(np.random.default_rng(0).permutation(len(rows))[:count]))


def folds_of(
    targets: np.ndarray, texts: Sequence[Text], folds: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Row ids to learn from, to choose the epoch on, and held out, of every fold.

    Rows of one text, but for case and white space, stay together.
    """
    alike = np.unique([normalised(str(text)) for text in texts], return_inverse=True)[1]
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for rest, held in splits.split(np.zeros(len(targets)), targets, alike):
        learn, choose = split_validation(targets[rest], CHOOSING, groups=alike[rest])
        yield rest[learn], rest[choose], held


def out_of_fold(
    ways: Mapping[str, tuple[StateSource, Way]],
    targets: np.ndarray,
    texts: Sequence[Text],
    folds: int,
    learning: Learning,
) -> dict[str, Probs]:
    """What each way says of every row that it learns from, by networks that have not seen its text.

    The folds are those of `folds_of`.
    """
    found: dict[str, Probs] = {}
    outputs = num_outputs(learning.task, learning.num_labels)
    for learn, choose, held in folds_of(targets, texts, folds):
        for name, (source, way) in ways.items():
            rows, choosing = (
                Examples(SelectedRows(source, part), targets[part]) for part in (learn, choose)
            )
            networks = way(learning, rows, choosing)
            probs = evaluate_networks(networks, SelectedRows(source, held), learning.task)
            own = found.setdefault(name, np.zeros((len(targets), outputs, len(networks))))
            own[held] = torch.stack(list(probs), 2).cpu().numpy()
            print(name, len(held), flush=True)
    return found


def measured(
    said: Mapping[str, Probs],
    targets: np.ndarray,
    task: Task,
    metrics: Sequence[str] = (),
    beside: str = "plain",
) -> Iterator[dict[str, Any]]:
    """Means over seeds, and what each way has more than one of them, with the interval of it.

    Args:
        said: way -> probabilities.
        targets: of the rows.
        task: what the probabilities mean.
        metrics: those of `METRICS` unless given.
        beside: the way that the others are held to.
    """
    first = said[beside]
    for name, probs in said.items():
        for metric in metrics or METRICS[task]:
            more = gain(metric, task, first.shape[2])
            both = np.concatenate([first, probs], 2)
            spread = interval(more, both, targets, num_resamples=300)
            row = {"metric": metric, "way": name, "value": mean(metric, probs, targets, task)}
            row |= {"baseline": mean(metric, first, targets, task)}
            row |= {"gain": more(both, targets)}
            yield row | {"interval": spread and [spread.low, spread.high]}
            print(row, flush=True)


def gain(metric: str, task: Task, num_first: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """What networks behind the first ones have more than these."""

    def more(both: np.ndarray, truth: np.ndarray) -> float:
        other, own = both[:, :, :num_first], both[:, :, num_first:]
        return mean(metric, own, truth, task) - mean(metric, other, truth, task)

    return more


def mean(metric: str, probs: Probs, targets: np.ndarray, task: Task) -> float:
    """Of a metric over the seeds."""
    each = np.moveaxis(probs, 2, 0)
    found = [evaluate(one, targets, task, names=(metric,))[metric] for one in each]
    return float(np.mean([0.0 if one is None else one for one in found]))
