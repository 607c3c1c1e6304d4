"""One probe from several sets: ToxicChat, half of OpenAI's moderation set, BeaverTails' prompts.

    python -m benchmarks.joint [--states FOLDER]
    python -m benchmarks.joint --locked --learn chat+moderation [--learn ...] [--states FOLDER]

The first is for development: of every set a fifth of the rows for learning is held back in the
place of a test, and one seed tries which sets to learn from. The second is run once a release, on a
commit, for the sets that were chosen: it reads ToxicChat's test rows, the other half of the
moderation set, BeaverTails' test prompts and XSTest, which no row was learnt from, with three
seeds, and what ToxicChat alone gives beside it. Epochs and thresholds are chosen on a tenth of the
rows of every set.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import run_folder
from benchmarks.result_file import DATA, check_locked, data_entry, write_result
from benchmarks.sets import halves
from benchmarks.states import every_layer, kept_layers
from pillion.backends import Backend, load_backend
from pillion.core import Text
from pillion.data import LabelSpace, Rows, read_rows, split_validation
from pillion.extract import JoinedRows, SelectedRows, StateSource
from pillion.metrics import evaluate, interval
from pillion.train import (
    Examples,
    ProbeConfig,
    TrainSettings,
    choose_thresholds,
    evaluate_networks,
    train,
)
from pillion_bench.baselines.encoder import EMBEDDER, Encoder
from pillion_bench.baselines.logistic import Goal, fit_logistic

LABELS = LabelSpace.of(["toxic", "non-toxic"], "toxic")
MEANING = {"toxic": "toxic", "flagged": "toxic", "unsafe": "toxic"}
SETS = ("chat", "moderation", "prompts")
WAYS = (("chat",), ("chat", "moderation"), SETS)
HELD, CHOOSING, HELD_SEED = 0.2, 0.1, 1
MEMBERS = 3
METRICS = ("auprc", "auroc", "f1")


@dataclass(frozen=True)
class Set:
    """Rows of one source: states and targets.

    Attributes:
        texts: of every row.
        targets: 1 toxic.
        source: states of every row.
    """

    texts: tuple[str, ...]
    targets: np.ndarray
    source: StateSource

    def some(self, row_ids: np.ndarray) -> Set:
        """Some of the rows."""
        texts = tuple(self.texts[int(row)] for row in row_ids)
        return Set(texts, self.targets[row_ids], SelectedRows(self.source, row_ids))

    def parts(self, share: float, seed: int = 0) -> tuple[Set, Set]:
        """The rows without a share of them, and that share."""
        rest, held = split_validation(self.targets, share, seed)
        return self.some(rest), self.some(held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=Path, help="keep hidden states here")
    parser.add_argument("--every", type=int, default=2, help="read every so many-th layer")
    parser.add_argument("--locked", action="store_true", help="read test rows and other sets")
    parser.add_argument("--learn", action="append", help="sets, with --locked; repeat it")
    options = parser.parse_args()
    if options.locked == (not options.learn):
        parser.error("--locked and --learn go together: development chooses what is learnt from")
    if options.locked:
        check_locked()
    backend = load_backend()
    with run_folder(options.states) as folder, ExitStack() as opened:
        found = Sets(backend, folder, options.every, opened)
        learnt = {name: found.take(name, "train") for name in SETS}
        if options.locked:
            asked = {name: found.take(name, "test") for name in SETS}
            asked |= {"xstest": found.take("xstest", "all")}
            ways, seeds = (("chat",), *(tuple(one.split("+")) for one in options.learn)), [0, 1, 2]
        else:
            both = {name: one.parts(HELD, HELD_SEED) for name, one in learnt.items()}
            learnt = {name: one[0] for name, one in both.items()}
            asked = {name: one[1] for name, one in both.items()}
            ways, seeds = WAYS, [0]
        rows = [row for way in ways for row in measured(way, learnt, asked, seeds, backend)]
    settings = {
        "model": "embedded",
        "probe": "gate",
        "members": MEMBERS,
        "layers": list(found.layers),
        "template": "chat",
        "scope": "all",
        "held_share": HELD,
        "choosing_share": CHOOSING,
        "learnt_rows": {name: len(one.targets) for name, one in learnt.items()},
        "asked_rows": {name: len(one.targets) for name, one in asked.items()},
        "ways": ["+".join(way) for way in ways],
    }
    name = "joint" if options.locked else "joint-validation"
    write_result(name, rows, seed=0, settings=settings, data=found.files)


class Sets:
    """Reads the sets and their states.

    Args:
        backend: the model.
        folder: where states are kept.
        every: keep every so many-th layer.
        opened: closes what was opened.
    """

    def __init__(self, backend: Backend, folder: Path, every: int, opened: ExitStack) -> None:
        self.backend, self.folder, self.opened = backend, folder, opened
        self.layers = every_layer(backend, every)
        self.files: list[dict[str, str]] = []

    def take(self, name: str, split: str) -> Set:
        """A set's rows of a split, with their states."""
        texts, labels = self._read(name, split)
        where = self.folder / name / split
        kept = kept_layers(self.backend, texts, "chat", self.layers, where, self.opened)
        targets = np.array([int(MEANING.get(label) == "toxic") for label in labels])
        return Set(tuple(map(str, texts)), targets, kept)

    def _read(self, name: str, split: str) -> tuple[Sequence[Text], Sequence[str]]:
        if name == "chat":
            rows = self._rows(f"toxicchat_0124_human/{split}.parquet", split)
        elif name == "xstest":
            rows = self._rows("xstest/all.parquet", split)
        elif name == "moderation":
            rows = self._rows("openai_moderation/test.parquet", f"half for {split}")
            learnt, other = halves(len(rows))
            rows = rows.some(np.sort(learnt if split == "train" else other))
        else:
            return self._prompts(split)
        return rows.texts, [str(label) for label in rows.labels or ()]

    def _prompts(self, split: str) -> tuple[Sequence[Text], Sequence[str]]:
        """Each prompt once: unsafe where some answer to it was."""
        rows = self._rows(f"beavertails_dev/{split}.parquet", split, text_column="prompt")
        found: dict[str, str] = {}
        for text, label in zip(rows.texts, rows.labels or (), strict=True):
            found[str(text)] = "unsafe" if "unsafe" in (label, found.get(str(text))) else "safe"
        return tuple(found), tuple(found.values())

    def _rows(self, path: str, split: str, **columns: str) -> Rows:
        self.files.append(data_entry(DATA / path, split))
        return read_rows(DATA / path, **columns)


def measured(
    way: Sequence[str],
    learnt: dict[str, Set],
    asked: dict[str, Set],
    seeds: Sequence[int],
    backend: Backend,
) -> Iterator[dict[str, Any]]:
    """Gates and embeddings that learn from some sets, asked about all of them."""
    parts = [learnt[name].parts(CHOOSING) for name in way]
    fitting, choosing = ([pair[side] for pair in parts] for side in (0, 1))
    said = by_gates(fitting, choosing, asked, seeds, backend)
    said += [by_embeddings(fitting, choosing, asked)]
    for method, seed, line, probs in said:
        for name, one in asked.items():
            found = evaluate(probs[name], one.targets, "binary", line, METRICS)
            for metric in METRICS:
                row = {"metric": metric, "learnt_from": "+".join(way), "asked": name}
                row |= {"method": method, "seed": seed, "value": found[metric]}
                print(row, flush=True)
                yield row | {"interval": spread(metric, probs[name], one.targets, line)}


Said = tuple[str, int, tuple[float, ...] | None, dict[str, np.ndarray]]
"""A method, its seed, its threshold, and its probabilities of every set that was asked about."""


def by_gates(
    fitting: Sequence[Set],
    choosing: Sequence[Set],
    asked: dict[str, Set],
    seeds: Sequence[int],
    backend: Backend,
) -> list[Said]:
    """Three gates as members of one, a seed each; all seeds share the reading."""
    examples = [Examples(joined(some), targets_of(some)) for some in (fitting, choosing)]
    settings = TrainSettings(epochs=6)
    size = settings.rows_a_step(len(examples[0].targets))
    configs = [
        ProbeConfig(probe="gate", settings={"members": MEMBERS}, seed=seed).at_batch(size)
        for seed in seeds
    ]
    trained = train(*examples, "binary", 2, configs, settings, device=backend.device)
    networks = [one.network for one in trained]

    def probs(source: StateSource) -> list[np.ndarray]:
        return [each.cpu().numpy() for each in evaluate_networks(networks, source, "binary")]

    held, told = probs(joined(choosing)), {name: probs(one.source) for name, one in asked.items()}
    truth = targets_of(choosing)
    return [
        ("gates", seed, line_of(held[at], truth), {name: each[at] for name, each in told.items()})
        for at, seed in enumerate(seeds)
    ]


def by_embeddings(fitting: Sequence[Set], choosing: Sequence[Set], asked: dict[str, Set]) -> Said:
    """Logistic regression on sentence embeddings of the same rows."""
    encoder = Encoder.load(EMBEDDER, 256)

    def sample(some: Sequence[Set]) -> tuple[np.ndarray, np.ndarray]:
        return encoder.embed([text for one in some for text in one.texts]), targets_of(some)

    held = sample(choosing)
    model = fit_logistic(sample(fitting), held, Goal("binary", 1, "auprc"))
    line = line_of(model.predict(held[0]), held[1])
    told = {name: model.predict(encoder.embed(one.texts)) for name, one in asked.items()}
    return "embeddings", 0, line, told


def joined(sets: Sequence[Set]) -> StateSource:
    """The rows of all, one set after the other."""
    return reduce(JoinedRows, [one.source for one in sets])


def targets_of(sets: Sequence[Set]) -> np.ndarray:
    return np.concatenate([one.targets for one in sets])


def line_of(probs: np.ndarray, targets: np.ndarray) -> tuple[float, ...] | None:
    said = torch.from_numpy(np.asarray(probs, dtype=np.float32))
    return choose_thresholds("binary", said, targets)


def spread(
    metric: str, probs: np.ndarray, targets: np.ndarray, line: tuple[float, ...] | None
) -> list[float] | None:
    """The bootstrap interval over rows."""
    found = interval(
        lambda some, truth: evaluate(some, truth, "binary", line, (metric,))[metric],
        probs,
        targets,
        num_resamples=300,
    )
    return found and [found.low, found.high]


if __name__ == "__main__":
    main()
