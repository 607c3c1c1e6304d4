"""Cheap changes of how a gate is trained, each beside the plain one: which of them is worth it?

    python -m benchmarks.levers [--states FOLDER] [--folds N]

Development only: ToxicChat's training rows, dealt into folds; what each way says of the rows that
are held out is put together and measured as one. A share of the other rows chooses the epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.accuracy import run_folder
from benchmarks.result_file import DATA, data_entry, write_result
from benchmarks.states import every_layer, kept_layers
from pillion.backends import load_backend
from pillion.core import Text
from pillion.data import LabelSpace, read_rows, split_validation
from pillion.extract import SelectedRows, StateSource
from pillion.metrics import evaluate, interval
from pillion.probe import Network
from pillion.train import Examples, ProbeConfig, TrainSettings, evaluate_networks, train
from pillion_bench.problem import normalised

CHAT = DATA / "toxicchat_0124_human" / "train.parquet"
SEEDS = (0, 1, 2)
CHOOSING, EVERY = 0.15, 2
METRICS = ("auprc", "auroc")
Probs = Float[np.ndarray, "row seed"]
Way = Callable[[Examples, Examples], list[Network]]
"""From rows to learn from and rows that choose to the networks of the seeds, or one of them all."""


def trained(
    rows: Examples, choosing: Examples, seeds: Sequence[int] = SEEDS, **settings: Any
) -> list[Network]:
    """A gate of each seed."""
    how = TrainSettings(epochs=8, **settings)
    size = how.rows_a_step(len(rows.targets))
    configs = [ProbeConfig(seed=seed).at_batch(size) for seed in seeds]
    return [one.network for one in train(rows, choosing, "binary", 2, configs, how)]


def smoothed(share: float) -> Way:
    """Targets drawn towards a half by a share, in the loss alone."""

    def way(rows: Examples, choosing: Examples) -> list[Network]:
        goals = rows.targets * (1 - share) + share / 2
        return trained(replace(rows, goals=goals.astype(np.float32)), choosing)

    return way


def balanced(rows: Examples, choosing: Examples) -> list[Network]:
    """Both labels count the same."""
    return trained(rows, choosing, class_weights="balanced")


def merged(rows: Examples, choosing: Examples) -> list[Network]:
    """The mean of the weights of gates that began alike and saw the rows in other orders."""
    every = [trained(rows, choosing, SEEDS[:1], order_seed=order)[0] for order in SEEDS]
    mean = deepcopy(every[0])
    with torch.no_grad():
        for own, *others in zip(
            mean.parameters(), *(one.parameters() for one in every), strict=True
        ):
            own.copy_(torch.stack(others).mean(0))
    return [mean]


def members(rows: Examples, choosing: Examples) -> list[Network]:
    """Three gates as members of one, which costs three times as much: what a merger is held to."""
    how = TrainSettings(epochs=8)
    config = ProbeConfig(settings={"members": 3}).at_batch(how.rows_a_step(len(rows.targets)))
    return [train(rows, choosing, "binary", 2, [config], how)[0].network]


WAYS: dict[str, Way] = {
    "plain": trained,
    "label smoothing 0.05": smoothed(0.05),
    "label smoothing 0.1": smoothed(0.1),
    "balanced labels": balanced,
    "weights of three merged": merged,
    "three members": members,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=Path, help="keep hidden states here")
    parser.add_argument("--folds", type=int, default=3)
    options = parser.parse_args()
    rows, backend = read_rows(CHAT), load_backend()
    space = LabelSpace.of(rows.labels or (), "toxic")
    targets = space.encode(rows.labels or ())
    layers = every_layer(backend, EVERY)
    with run_folder(options.states) as folder, ExitStack() as opened:
        source = kept_layers(backend, rows.texts, "chat", layers, folder / "train", opened)
        ways = {name: (source, way) for name, way in WAYS.items()}
        said = out_of_fold(ways, targets, rows.texts, options.folds)
    settings = {
        "model": "embedded",
        "probe": "gate",
        "layers": list(layers),
        "template": "chat",
        "scope": "all",
        "folds": options.folds,
        "choosing_share": CHOOSING,
        "seeds": list(SEEDS),
    }
    results = list(measured(said, targets))
    data = [data_entry(CHAT, "train, in folds")]
    write_result("levers-validation", results, seed=0, settings=settings, data=data)


def out_of_fold(
    ways: Mapping[str, tuple[StateSource, Way]],
    targets: np.ndarray,
    texts: Sequence[Text],
    folds: int,
) -> dict[str, Probs]:
    """What each way says of every row that it learns from, by networks that have not seen its text.

    Rows of one text, but for case and white space, stay together.
    """
    found: dict[str, Probs] = {}
    alike = np.unique([normalised(str(text)) for text in texts], return_inverse=True)[1]
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for rest, held in splits.split(np.zeros(len(targets)), targets, alike):
        parts = split_validation(targets[rest], CHOOSING, groups=alike[rest])
        learn, choose = (rest[part] for part in parts)
        for name, (source, way) in ways.items():
            rows, choosing = (
                Examples(SelectedRows(source, part), targets[part]) for part in (learn, choose)
            )
            networks = way(rows, choosing)
            probs = evaluate_networks(networks, SelectedRows(source, held), "binary")
            own = found.setdefault(name, np.zeros((len(targets), len(networks))))
            own[held] = torch.cat(list(probs), 1).cpu().numpy()
            print(name, len(held), flush=True)
    return found


def measured(said: Mapping[str, Probs], targets: np.ndarray) -> Iterator[dict[str, Any]]:
    """Means over seeds, and what each way has more than the plain one, with the interval of it."""
    for name, probs in said.items():
        for metric in METRICS:
            more = gain(metric, len(SEEDS))
            both = np.concatenate([said["plain"], probs], 1)
            spread = interval(more, both, targets, num_resamples=300)
            row = {"metric": metric, "way": name, "value": mean(metric, probs, targets)}
            row |= {"baseline": mean(metric, said["plain"], targets), "gain": more(both, targets)}
            yield row | {"interval": spread and [spread.low, spread.high]}
            print(row, flush=True)


def gain(metric: str, num_plain: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """What columns behind those of the plain way have more than these."""

    def more(both: np.ndarray, truth: np.ndarray) -> float:
        return mean(metric, both[:, num_plain:], truth) - mean(metric, both[:, :num_plain], truth)

    return more


def mean(metric: str, probs: Probs, targets: np.ndarray) -> float:
    """Of a metric over the seeds."""
    found = [evaluate(one[:, None], targets, "binary", names=(metric,))[metric] for one in probs.T]
    return float(np.mean([0.0 if one is None else one for one in found]))


if __name__ == "__main__":
    main()
