"""Which probes find a needle in a long text: accuracy over distractors and length.

    python -m benchmarks.needle [--probes gate multimax ...] [--cache FOLDER]

Probes learn from texts of 128 and 512 words with mixed shares of distractors, choose their epoch on
others of the same kind, and are then read once in each cell, also on texts up to eight times as
long. It is done twice: with no negation but the needle's, and with negations all over the text.
Only the lower layers are read, so no block above them runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import run_folder
from benchmarks.needle_texts import NeedleSettings, needle_rows
from benchmarks.result_file import write_result
from pillion.backends import Backend, load_backend
from pillion.data import LabelSpace, Rows
from pillion.extract import LiveSource, encode_rows, kept_states
from pillion.metrics import evaluate, interval
from pillion.train import Examples, ProbeConfig, Trained, TrainSettings, evaluate_networks, train

PROBES = (
    "gate",
    "gate-mlp",
    "gate-paper",
    "attention",
    "multimax",
    "rolling",
    "mha",
    "pooling",
)
LAYERS = (0, 2, 4, 6, 8)
RATIOS = (0.2, 0.5, 0.8, 0.9, 0.95)
TRAIN_ROWS = {128: 600, 512: 200}
VALIDATION_ROWS = {128: 100, 512: 60}
CELLS = (
    *((512, ratio, 200 if ratio == 0.9 else 60) for ratio in RATIOS),
    (128, 0.9, 100),
    (2000, 0.9, 40),
    (4000, 0.9, 60),
)
"""Words, share of distractors, rows."""
HARD_CELLS = ((512, 0.9, 100), (4000, 0.9, 40))
"""The same, with negations all over the text."""
SPACE = LabelSpace.of(("plain", "negated"), positive="negated")
SETTINGS = TrainSettings(epochs=6, batch_size=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probes", nargs="*", default=list(PROBES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="keep hidden states here")
    options = parser.parse_args()
    backend = load_backend()
    configs = [
        ProbeConfig(probe=probe, seed=seed)
        for probe in options.probes
        for seed in range(options.seeds)
    ]
    results: list[dict[str, Any]] = []
    described: list[dict[str, Any]] = []
    with run_folder(options.cache) as cache:
        for elsewhere in (False, True):
            trained = learn(configs, elsewhere, backend, cache)
            described += [{"elsewhere": elsewhere, **describe(one)} for one in trained]
            for words, ratio, rows in HARD_CELLS if elsewhere else CELLS:
                found = read(trained, words, ratio, rows, elsewhere, backend)
                results += [{"elsewhere": elsewhere, **row} for row in found]
            write(results, described)  # the first half is worth keeping if the second is stopped


def write(results: list[dict[str, Any]], described: list[dict[str, Any]]) -> None:
    write_result(
        "needle",
        results,
        seed=0,
        settings={
            "model": "embedded",
            "template": "raw",
            "layers": LAYERS,
            "train_rows_by_words": TRAIN_ROWS,
            "validation_rows_by_words": VALIDATION_ROWS,
            "train_distractors": RATIOS,
            "threshold": 0.5,
            "train": SETTINGS.model_dump(),
            "configs": described,
        },
    )


def describe(trained: Trained) -> dict[str, Any]:
    """How a probe was trained."""
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
    }


def learn(
    configs: Sequence[ProbeConfig], elsewhere: bool, backend: Backend, cache: Path
) -> list[Trained]:
    """All probes, trained side by side."""
    training, validation = (
        kept(mixed(rows, elsewhere, seed), backend, cache / f"needle-{name}-{elsewhere}")
        for name, rows, seed in (("train", TRAIN_ROWS, 1), ("validation", VALIDATION_ROWS, 2))
    )
    at_batch = [config.at_batch(SETTINGS.batch_size or 32) for config in configs]
    return train(training, validation, "binary", 2, at_batch, SETTINGS, device=backend.device)


def mixed(num_rows: dict[int, int], elsewhere: bool, seed: int) -> Rows:
    """Rows of several lengths, and as many of every share of distractors."""
    made = [
        needle_rows(count // len(RATIOS), NeedleSettings(words, ratio, elsewhere), seed * 1000 + i)
        for words, count in num_rows.items()
        for i, ratio in enumerate(RATIOS)
    ]
    texts = [text for rows in made for text in rows.texts]
    return Rows.of(texts, [label for rows in made for label in rows.labels or ()], "needle")


def kept(rows: Rows, backend: Backend, folder: Path) -> Examples:
    tokens = encode_rows(backend, rows.texts, "raw")
    source = kept_states(backend, tokens, LAYERS, folder, "raw", "error")
    return Examples(source, SPACE.encode(rows.labels or ()))


def read(
    trained: Sequence[Trained],
    words: int,
    ratio: float,
    num_rows: int,
    elsewhere: bool,
    backend: Backend,
) -> list[dict[str, Any]]:
    """Accuracy of every probe in a cell, on states that are read once and not kept."""
    rows = needle_rows(num_rows, NeedleSettings(words, ratio, elsewhere), seed=3)
    tokens = encode_rows(backend, rows.texts, "raw")
    targets = SPACE.encode(rows.labels or ())
    said = evaluate_networks(
        [one.network for one in trained], LiveSource(backend, tokens, LAYERS), "binary"
    )
    found: list[dict[str, Any]] = []
    for one, probs in zip(trained, said, strict=True):
        around = interval(accuracy, probs.numpy(), targets, num_resamples=500)
        assert around is not None
        found.append(
            {
                "metric": "accuracy",
                "probe": one.config.probe,
                "seed": one.config.seed,
                "words": words,
                "distractors": ratio,
                "mean_tokens": round(sum(map(len, tokens)) / len(tokens)),
                "rows": num_rows,
                "value": around.estimate,
                "interval": [around.low, around.high],
            }
        )
    shown = {row["probe"]: round(row["value"], 3) for row in found}
    print(words, ratio, "elsewhere" if elsewhere else "", shown, flush=True)
    return found


def accuracy(probs: np.ndarray, targets: np.ndarray) -> float | None:
    return evaluate(probs, targets, "binary")["accuracy"]


if __name__ == "__main__":
    main()
