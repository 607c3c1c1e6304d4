"""Does a verdict on a user's words hold in a conversation as it holds alone?

    python -m benchmarks.conversations [--data toxicchat clinc150] [--rows 1400] [--validation 500]
        [--measured 400] [--seeds 0 1 2] [--locked]

Probes are trained three ways on the same rows: reading every token, reading the last user's turn,
and that with rows put behind the shipped contexts. Each then reads the same rows alone and behind
the contexts of `conversations.jsonl`, which are others than the shipped ones. Epoch and threshold
are chosen on validation rows; what is measured are other rows of the training files, or with
`--locked` the test rows. A result file a data set: `conversations-NAME.json` of a locked run, else
`conversations-NAME-validation.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result_file import DATA, data_entry, write_result
from pillion.cli.layers import parse_layers
from pillion.core import Conversation, as_conversation
from pillion.data import LabelSpace, Rows, in_context, read_rows, shipped_contexts
from pillion.extract import LiveSource
from pillion.fit import FitSettings, Fitted, fit
from pillion.metrics import decide, evaluate
from pillion.runtime import LanguageModel, encode_rows
from pillion.train import ProbeConfig, TrainSettings
from pillion.train.evaluate import evaluate_networks

CONTEXTS = Path(__file__).with_suffix(".jsonl")
JOINED = (("system prompt, 600 tokens", "2 earlier turns"),)
"""Contexts of the file that are also measured one behind the other."""

ALONE = "alone"
EVERY, LAST, IN_CONTEXTS = "every token", "last user turn", "last user turn, trained in contexts"
WAYS: dict[str, FitSettings] = {
    EVERY: FitSettings(scope="all"),
    LAST: FitSettings(scope="last-user"),
    IN_CONTEXTS: FitSettings(scope="last-user", contexts=shipped_contexts()),
}

BATCH_TOKENS = 1024
"""Padded tokens that are read in one go: a KV cache of the context is held for each row of them."""


@dataclass(frozen=True)
class DataSet:
    """Where rows of each use come from; shares of one file are disjoint."""

    train: Path
    validation: Path
    test: Path

    @property
    def used(self) -> list[Path]:
        """The files that are read while developing."""
        return list(dict.fromkeys((self.train, self.validation)))


DATA_SETS = {
    "toxicchat": DataSet(
        DATA / "toxicchat_0124_human" / "train.parquet",
        DATA / "toxicchat_0124_human" / "train.parquet",
        DATA / "toxicchat_0124_human" / "test.parquet",
    ),
    "clinc150": DataSet(
        DATA / "clinc150" / "train.parquet",
        DATA / "clinc150" / "validation.parquet",
        DATA / "clinc150" / "test.parquet",
    ),
}


@dataclass(frozen=True)
class Split:
    """Rows to learn from, to choose on and to measure on."""

    train: Rows
    validation: Rows
    measured: Rows


@dataclass
class Clock:
    """A progress that adds up the seconds of every stage."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    last: float = field(default_factory=time.perf_counter)

    def __call__(
        self, stage: str, done_tokens: int, total_tokens: int, metric: float | None = None
    ) -> None:
        """Some of a stage is done."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


def contexts() -> dict[str, Conversation]:
    """Name -> turns that come before; none for `alone`."""
    lines = CONTEXTS.read_text(encoding="utf-8").splitlines()
    read = [json.loads(line) for line in lines]
    found = {ALONE: (), **{one["context"]: as_conversation(one["messages"]) for one in read}}
    joined = {f"{a}, and {b}": (*found[a], *found[b]) for a, b in JOINED}
    return found | joined


def split_of(data: DataSet, model: LanguageModel, options: argparse.Namespace) -> Split:
    """Disjoint rows for each use, always the same ones for the same numbers."""
    train, rest = read_rows(data.train), None
    if data.validation != data.train:
        rest = chosen_rows(read_rows(data.validation), model, options)
    train = chosen_rows(train, model, options)
    if rest is None:
        rest = train.some(range(options.rows, len(train)))
    validation = rest.some(range(options.validation))
    measured = rest.some(range(options.validation, len(rest)))
    if options.locked:
        measured = chosen_rows(read_rows(data.test), model, options)
    most = min(len(measured), options.measured)
    return Split(train.some(range(options.rows)), validation, measured.some(range(most)))


def chosen_rows(rows: Rows, model: LanguageModel, options: argparse.Namespace) -> Rows:
    """The rows that count, shuffled so that any beginning of them has the same share of labels."""
    rows = rows.some(np.random.default_rng(0).permutation(len(rows)))
    if options.max_tokens:
        texts = [text for text in rows.texts if isinstance(text, str)]  # all of these sets are
        lengths = [len(model.backend.encode(text, "raw")) for text in texts]
        rows = rows.some([n for n, length in enumerate(lengths) if length <= options.max_tokens])
    assert rows.labels is not None
    space = LabelSpace.of(rows.labels)
    ids = space.encode(rows.labels)
    if options.positive_share and space.task == "binary":
        most = round((ids == 1).sum() * (1 / options.positive_share - 1))
        kept = np.concatenate([np.flatnonzero(ids == 1), np.flatnonzero(ids == 0)[:most]])
        rows, ids = rows.some(kept), ids[kept]
    place = np.empty(len(ids))
    for label in np.unique(ids):
        own = np.flatnonzero(ids == label)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return rows.some(np.argsort(place, kind="stable"))


def said(
    model: LanguageModel, rows: Rows, context: Conversation, fitted: Sequence[Fitted]
) -> list[np.ndarray]:
    """Probabilities of every row behind a context, by probes of one scope, in one pass."""
    card = fitted[0].artefact.card
    texts = [in_context(text, context) for text in rows.texts]
    tokens = encode_rows(model.backend, texts, card.template, "truncate-tail", scopes=[card.scope])
    source = LiveSource(model.backend, tokens, card.layers, card.scope)
    most = max(BATCH_TOKENS, 8 * max(source.lengths)) if card.scope == "all" else BATCH_TOKENS
    networks = [one.trained.network for one in fitted]
    return [p.numpy() for p in evaluate_networks(networks, source, card.task, most)]


def numbers(one: Fitted, probs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """How good verdicts are: AUPRC, recall and false positive rate; or accuracy."""
    card = one.artefact.card
    if card.task == "multiclass":
        accuracy = evaluate(probs, targets, card.task, None, ("accuracy",))["accuracy"]
        assert accuracy is not None
        return {"accuracy": accuracy}
    chosen = decide(probs, card.task, card.thresholds)[:, 0] == 1
    auprc = evaluate(probs, targets, card.task, card.thresholds, ("auprc",))["auprc"]
    assert auprc is not None
    return {
        "auprc": auprc,
        "recall": float(chosen[targets == 1].mean()),
        "false_positive_rate": float(chosen[targets == 0].mean()),
    }


@dataclass(frozen=True)
class Run:
    """What is measured with: a model, rows, and where files may lie."""

    name: str
    model: LanguageModel
    split: Split
    options: argparse.Namespace
    work: Path


def trained(run: Run, way: str) -> tuple[list[Fitted], Clock]:
    """A gate a seed, trained in one of the ways, and where the time went."""
    options, settings = run.options, WAYS[way]
    contexts = settings.contexts
    if contexts is not None and options.num_contexts:
        step = len(contexts) // options.num_contexts
        contexts = replace(contexts, each=contexts.each[::step][: options.num_contexts])
    settings = replace(
        settings,
        contexts=contexts,
        layers=parse_layers(options.layers, run.model.backend.identity.num_layers),
        cache=run.work / (ALONE if contexts is None else "contexts"),
        train=TrainSettings(epochs=options.epochs),
    )
    configs = [ProbeConfig(seed=seed) for seed in options.seeds]
    clock, split = Clock(), run.split
    fitted = fit(
        run.model, split.train, split.validation, configs, run.work / way, settings, clock, print
    )
    return fitted, clock


def measure(run: Run) -> Iterator[list[dict[str, Any]]]:
    """Every way in every context: the mean over seeds, and how it stands to alone."""
    probes: dict[str, list[Fitted]] = {}
    for way in WAYS:  # states of every token serve the ways that read some of them
        if way in run.options.ways:
            probes[way], clock = trained(run, way)
            facts = {"data": run.name, "way": way}
            seconds = {name: round(value, 1) for name, value in clock.seconds.items()}
            print(facts, seconds, flush=True)
            yield [facts | {"metric": f"{k}_seconds", "value": v} for k, v in seconds.items()]
    for scope in ("last-user", "all"):
        own = {way: some for way, some in probes.items() if WAYS[way].scope == scope}
        if own:
            yield from in_contexts(run, own)


def in_contexts(run: Run, probes: dict[str, list[Fitted]]) -> Iterator[list[dict[str, Any]]]:
    """Probes of one scope in every context, in one pass over the rows of each."""
    card = next(iter(probes.values()))[0].artefact.card
    assert run.split.measured.labels is not None
    targets = LabelSpace(card.labels, card.task).encode(run.split.measured.labels)
    alone: dict[str, dict[str, float]] = {}
    for context, turns in contexts().items():
        if run.options.contexts and context not in run.options.contexts:
            continue
        if card.scope == "all" and length(run.model, turns) > run.options.max_read_tokens:
            continue
        every = [one for fitted in probes.values() for one in fitted]
        probs = said(run.model, run.split.measured, turns, every)
        found = [numbers(one, p, targets) for one, p in zip(every, probs, strict=True)]
        for way, fitted in probes.items():
            own, found = found[: len(fitted)], found[len(fitted) :]
            mean = {key: statistics.mean(one[key] for one in own) for key in own[0]}
            alone.setdefault(way, mean)
            facts = {"data": run.name, "way": way, "context": context}
            print(facts, {key: round(value, 3) for key, value in mean.items()}, flush=True)
            yield [facts | row for row in rows_of(mean, alone[way], own)]


def rows_of(
    mean: Mapping[str, float], alone: Mapping[str, float], seeds: Sequence[Mapping[str, float]]
) -> list[dict[str, Any]]:
    """A result a metric; `difference` and `ratio` are to the same rows alone."""
    return [
        {
            "metric": key,
            "value": value,
            "alone": alone[key],
            "difference": value - alone[key],
            "ratio": value / alone[key] if alone[key] else None,
            "seeds": [one[key] for one in seeds],
        }
        for key, value in mean.items()
    ]


def length(model: LanguageModel, turns: Conversation) -> int:
    """Tokens of what the turns say."""
    return len(model.backend.encode(" ".join(turn.content for turn in turns), "raw"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(DATA_SETS), choices=list(DATA_SETS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--contexts", nargs="+", help="besides alone; all by default")
    parser.add_argument("--rows", type=int, default=1400, help="that probes are trained on")
    parser.add_argument("--validation", type=int, default=500, help="rows that choose")
    parser.add_argument("--measured", type=int, default=400, help="rows that are measured")
    parser.add_argument("--layers", help="as of pillion train; default: all")
    parser.add_argument("--max-tokens", type=int, help="longer texts are left out")
    parser.add_argument("--positive-share", type=float, help="of a binary set, by leaving out rows")
    parser.add_argument("--num-contexts", type=int, help="of the shipped ones; default: all")
    parser.add_argument(
        "--max-read-tokens",
        type=int,
        default=1000,
        help="contexts longer than this are not measured with probes that read them, too",
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--locked", action="store_true", help="measure on test rows")
    options = parser.parse_args()
    if options.contexts:
        options.contexts = [ALONE, *options.contexts]
    model = LanguageModel.load(options.model)
    settings = {**vars(options), "contexts_sha256": shipped_contexts().sha256}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.data:
            files = DATA_SETS[name]
            data = [data_entry(path, "train and validation rows") for path in files.used]
            data += [data_entry(files.test, "test")] if options.locked else []
            split = split_of(files, model, options)
            run = Run(name, model, split, options, Path(folder) / name)
            results: list[dict[str, Any]] = []
            kind = name if options.locked else f"{name}-validation"
            for some in measure(run):  # hours: what is known is kept
                results += some
                seed = options.seeds[0]
                write_result(
                    f"conversations-{kind}", results, seed=seed, settings=settings, data=data
                )


if __name__ == "__main__":
    main()
