"""Learned reader tokens behind a text: do they tell more than gates on the text's own states?

    python -m benchmarks.readers sst2|toxicchat [--rows N] [--folds N] [--states FOLDER]

Development only: rows of a training file, dealt into folds in which rows of one text stay
together. In each fold gates of three seeds and a branch of reader tokens of each kind
(`benchmarks.branch`) learn from the same rows and choose their epoch on the same; what they say of
the rows that are held out is put together and measured as one. A branch is measured alone, and
beside the gates: the mean of what both say, as log-odds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Float

from benchmarks.accuracy import run_folder
from benchmarks.branch import GAIN, Branch, Learnt, Prefixes
from benchmarks.folds import (
    CHOOSING,
    EVERY,
    SEEDS,
    Learning,
    drawn,
    folds_of,
    measured,
    out_of_fold,
    plain,
)
from benchmarks.result_file import DATA, data_entry, write_result
from benchmarks.states import every_layer, kept_layers
from benchmarks.suffixes import SETS
from pillion.backends import load_backend
from pillion.backends.transformers import TransformersBackend
from pillion.data import LabelSpace, Rows, read_rows
from pillion.extract import encode_rows
from pillion.extract.progress import silent
from pillion.metrics.thresholds import to_logits
from pillion_bench.baselines.finetune import Rates, finetune, predict
from pillion_bench.problem import Part, Problem
from pillion_bench.suite import DataSpec

LENGTH, MAX_TOKENS = 8, 512
RATES = Rates(epochs=5, learning_rate=1e-3, batch_size=32)
METRICS = ("auprc", "auroc", "accuracy")
LogOdds = Float[np.ndarray, " row"]
Fold = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row ids to learn from, to choose on, and held out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=SETS)
    parser.add_argument("--rows", type=int, help="drawn of the file; default: all")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=get_args(Learnt), choices=get_args(Learnt))
    parser.add_argument("--states", type=Path, help="keep hidden states here")
    options = parser.parse_args()
    chosen = SETS[options.data]
    rows = drawn(read_rows(DATA / chosen.file), options.rows)
    space = LabelSpace.of(rows.labels or (), chosen.positive)
    targets = space.encode(rows.labels or ())
    folds = list(folds_of(targets, rows.texts, options.folds))
    backend = load_backend()
    assert isinstance(backend, TransformersBackend), "the embedded model is one of transformers"
    readers = Readers(backend, options.data, rows, space, targets)
    learning, layers = Learning(space.task, len(space.names)), every_layer(backend, EVERY)
    with run_folder(options.states) as folder, ExitStack() as opened:
        source = kept_layers(backend, rows.texts, chosen.template, layers, folder, opened)
        gates = {"gates": (source, plain)}
        probs = out_of_fold(gates, targets, rows.texts, options.folds, learning)["gates"]
    each = log_odds(probs[:, 0])
    said = {"gate": each[:, 0], "gates": each.mean(1)}
    for kind in options.kinds:
        said[kind] = readers.said(kind, folds)
        said[f"{kind}, beside a gate"] = (said["gate"] + said[kind]) / 2
        said[f"{kind}, beside gates"] = (said["gates"] + said[kind]) / 2
    settings = {
        "model": "embedded",
        "rows": len(rows),
        "every_layers": EVERY,
        "template": chosen.template,
        "scope": "all",
        "folds": options.folds,
        "choosing_share": CHOOSING,
        "seeds": list(SEEDS),
        "reader_tokens": LENGTH,
        "max_tokens": MAX_TOKENS,
        "gain_of_vectors": GAIN,
        **vars(RATES),
    }
    data = [data_entry(DATA / chosen.file, "train, in folds")]
    told = {way: 1 / (1 + np.exp(-odds))[:, None, None] for way, odds in said.items()}
    results = list(measured(told, targets, space.task, METRICS, "gates"))
    write_result(
        f"readers-{options.data}-validation", results, seed=0, settings=settings, data=data
    )


@dataclass
class Readers:
    """Rows and what reader tokens learn of them."""

    backend: TransformersBackend
    data: str
    rows: Rows
    space: LabelSpace
    targets: np.ndarray

    @cached_property
    def tokens(self) -> list[list[int]]:
        """Token ids of every row."""
        found = encode_rows(self.backend, self.rows.texts, SETS[self.data].template)
        return [list(row[-MAX_TOKENS:]) for row in found]

    @cached_property
    def prefixes(self) -> Prefixes:
        """Keys and values of every row."""
        return Prefixes(self.backend, self.tokens)

    def said(self, kind: Learnt, folds: Sequence[Fold]) -> LogOdds:
        """Of every row, by a branch that has not learnt from it; the seed is the fold's number."""
        found = np.zeros(len(self.tokens))
        for seed, (learn, choose, held) in enumerate(folds):
            problem = self._problem(learn, choose)
            named = {
                part.name: [self.tokens[row] for row in part.row_ids] for part in problem.chosen_on
            }
            branch = Branch(self.backend, self.prefixes, problem.num_outputs, kind, LENGTH, seed)
            losses = finetune(branch.logits, branch, named, problem, RATES, seed, silent)
            print(kind, seed, losses, flush=True)
            asked = [self.tokens[row] for row in held]
            found[held] = log_odds(predict(branch.logits, branch, asked, problem.task)[:, 0])
        return found

    def _problem(self, learn: np.ndarray, choose: np.ndarray) -> Problem:
        def part(name: str, own: np.ndarray) -> Part:
            texts = tuple(str(self.rows.texts[row]) for row in own)
            return Part(name, texts, self.targets[own], "train", own)

        chosen = SETS[self.data]
        spec = DataSpec(train=chosen.file, template=chosen.template, test=0.5)
        train, validation = part("train", learn), part("validation", choose)
        return Problem(self.data, spec, self.space, train, validation, None, {}, ())


def log_odds(probs: np.ndarray) -> np.ndarray:
    """Of probabilities, of which none counts as surer than one in a million."""
    return to_logits(np.clip(probs.astype(np.float64), 1e-6, 1 - 1e-6))


if __name__ == "__main__":
    main()
