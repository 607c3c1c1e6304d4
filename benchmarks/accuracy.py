"""How well the default probes do on Emotion and ToxicChat: chosen on validation, tested once.

    python -m benchmarks.accuracy [emotion] [toxicchat] [--seeds 1] [--cache FOLDER]

All probes and seeds of a data set train side by side on one read of its hidden states.
`test_unseen` leaves out the test rows whose text stands in train, but for case and white space.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.result_file import DATA, data_entry, write_result
from pillion.backends import Backend, load_backend
from pillion.core import Template
from pillion.data import LabelSpace, Rows, read_rows, split_validation
from pillion.extract import (
    CachedSource,
    SelectedRows,
    cache_key,
    cache_spec,
    encode_rows,
    extract,
    size_sentence,
)
from pillion.metrics import evaluate, interval
from pillion.train import (
    Examples,
    ProbeConfig,
    Trained,
    TrainSettings,
    choose_thresholds,
    evaluate_networks,
    train,
)

PROBES = ("gate", "gate-paper", "mha", "pooling")
METRICS = ("accuracy", "f1", "auprc", "auroc", "ece")
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class DataSet:
    """Where rows come from; without a validation file a stratified share of train is held back."""

    name: str
    folder: str
    template: Template
    validation: str | None

    def path(self, split: str) -> Path:
        """The file of a split."""
        return DATA / self.folder / f"{split}.parquet"


DATA_SETS = {
    "emotion": DataSet("emotion", "emotion", "raw", "validation"),
    "toxicchat": DataSet("toxicchat", "toxicchat_0124_human", "chat", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", choices=[*DATA_SETS, []], help="all by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--probes", nargs="*", default=list(PROBES))
    parser.add_argument("--cache", type=Path, help="keep hidden states here")
    options = parser.parse_args()
    backend = load_backend()
    with cache_folder(options.cache) as cache:
        for name in options.data or DATA_SETS:
            measure(DATA_SETS[name], backend, cache, options.probes, options.seeds)


@contextmanager
def cache_folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def measure(
    data: DataSet, backend: Backend, cache: Path, probes: list[str], num_seeds: int
) -> None:
    """Trains every probe and seed, tests each once and writes the result file."""
    rows = read_rows(data.path("train"))
    assert rows.labels is not None
    space = LabelSpace.of(rows.labels)
    training = Examples(states(data, "train", rows, backend, cache), space.encode(rows.labels))
    if data.validation is None:
        training, validation = held_back(training)
    else:
        validation = examples(data, data.validation, space, backend, cache)
    configs = [ProbeConfig(probe=probe, seed=seed) for probe in probes for seed in range(num_seeds)]
    settings = TrainSettings()
    trained = train(training, validation, space.task, len(space.names), configs, settings)
    test = examples(data, "test", space, backend, cache)
    networks = [one.network for one in trained]
    held_out = evaluate_networks(networks, validation.source, space.task)
    tested = evaluate_networks(networks, test.source, space.task)
    targets = {"validation": validation.targets, "test": test.targets}
    new = ~seen_in_train(data)
    targets["test_unseen"] = test.targets[new]
    results = [
        row
        for one, held, said in zip(trained, held_out, tested, strict=True)
        for row in rows_of(
            one, {"validation": held, "test": said, "test_unseen": said[new]}, targets, space
        )
    ]
    splits = ["train", *([data.validation] if data.validation else []), "test"]
    how = "its validation file" if data.validation else f"{VALIDATION_SHARE:.0%} of train, seed 0"
    write_result(
        data.name,
        results,
        seed=0,
        settings={
            "model": "embedded",
            "template": data.template,
            "validation": how,
            "train": settings.model_dump(),
            "configs": [describe(one) for one in trained],
        },
        data=[data_entry(data.path(split), split) for split in splits],
    )


def states(data: DataSet, split: str, rows: Rows, backend: Backend, cache: Path) -> CachedSource:
    token_ids = encode_rows(backend, rows.texts, data.template)
    layers = range(backend.identity.num_layers + 1)
    key = cache_key(backend.identity, data.template, "error", token_ids)
    print(
        f"{data.name} {split}:", size_sentence(cache_spec(backend.identity, layers, key, token_ids))
    )
    return CachedSource(extract(backend, token_ids, layers, cache / f"{data.name}-{split}", key))


def examples(
    data: DataSet, split: str, space: LabelSpace, backend: Backend, cache: Path
) -> Examples:
    rows = read_rows(data.path(split))
    assert rows.labels is not None
    return Examples(states(data, split, rows, backend, cache), space.encode(rows.labels))


def held_back(rows: Examples) -> tuple[Examples, Examples]:
    """Training and validation rows, the same in every run."""
    parts = split_validation(rows.targets, VALIDATION_SHARE, seed=0)
    first, second = (Examples(SelectedRows(rows.source, p), rows.targets[p]) for p in parts)
    return first, second


def describe(trained: Trained) -> dict[str, Any]:
    config = trained.config
    return {
        "probe": config.probe,
        "seed": config.seed,
        "settings": trained.network.settings.model_dump(),
        "learning_rate": config.rate,
        "weight_decay": config.weight_decay,
        "parameters": trained.network.num_parameters,
        "best_epoch": trained.best_epoch,
        "train_seconds": trained.seconds,
        "curve": trained.curve,
    }


def rows_of(
    trained: Trained, probs: dict[str, Tensor], targets: dict[str, np.ndarray], space: LabelSpace
) -> list[dict[str, Any]]:
    """One mapping a number of a trained probe, over the subsets of rows that are given."""
    thresholds = choose_thresholds(space.task, probs["validation"], targets["validation"])
    found: list[dict[str, Any]] = []
    for subset, said in probs.items():
        for metric in METRICS:
            found.append(
                {
                    "metric": f"{subset}_{metric}",
                    "probe": trained.config.probe,
                    "seed": trained.config.seed,
                    "rows": len(said),
                    **value_of(metric, said.numpy(), targets[subset], space.task, thresholds),
                }
            )
    shown = {row["metric"]: round(row["value"], 4) for row in found}
    print(trained.config.probe, trained.config.seed, shown, flush=True)
    return found


def value_of(
    metric: str,
    probs: np.ndarray,
    targets: np.ndarray,
    task: str,
    thresholds: tuple[float, ...] | None,
) -> dict[str, Any]:
    """A metric and its bootstrap interval over rows."""

    def measured(probs: np.ndarray, targets: np.ndarray) -> float | None:
        return evaluate(probs, targets, task, thresholds)[metric]

    around = interval(measured, probs, targets, num_resamples=200)
    assert around is not None
    return {"value": around.estimate, "interval": [around.low, around.high]}


def seen_in_train(data: DataSet) -> np.ndarray:
    """Which test rows have a text that stands in train, but for case and white space."""
    train_texts, test_texts = (
        [" ".join(text.casefold().split()) for text in read_rows(data.path(split)).texts]
        for split in ("train", "test")
    )
    known = set(train_texts)
    return np.array([text in known for text in test_texts])


if __name__ == "__main__":
    main()
