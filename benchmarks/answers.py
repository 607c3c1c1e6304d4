"""Probes of answers: a gate that reads the response against what reads the text or the prompt.

    python -m benchmarks.answers [--data beavertails halueval] [--cache FOLDER] [--rows N]
        [--seeds N] [--locked]

BeaverTails (unsafe answers) and HaluEval (answers with hallucinations). Training rows are split by
prompt into those that are learnt from and validation rows. Without `--locked` all numbers are of
validation rows (`answers-validation.json`); with it the test rows are read, once (`answers.json`).
Responses are cut after 192 tokens, for every method. One pass of the model gives the states of
prompt and response.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.accuracy import run_folder
from benchmarks.result_file import DATA, data_entry, write_result
from pillion.backends import Backend, load_backend
from pillion.cache import CacheReader
from pillion.core import Scope, Tokens, as_conversation
from pillion.data import LabelSpace, Rows, TableLayout, read_rows, split_validation
from pillion.evals.running import running_logits
from pillion.extract import CachedSource, SelectedRows, StateSource, kept_states, silent
from pillion.extract.scoped import ScopedRows
from pillion.metrics import evaluate, interval, paired_interval
from pillion.metrics.running import after, detection, largest
from pillion.metrics.thresholds import fpr_threshold
from pillion.probe import Network
from pillion.probe.task import probabilities
from pillion.runtime import encode_rows
from pillion.train import Examples, ProbeConfig, TrainSettings, train
from pillion_bench.baselines.base import Workplace
from pillion_bench.baselines.encoder import EMBEDDER, Encoder
from pillion_bench.baselines.logistic import Goal, fit_logistic
from pillion_bench.baselines.los_net import LosNet, LosNetSettings, Signature, all_signatures
from pillion_bench.problem import Part as ProblemPart
from pillion_bench.problem import Problem
from pillion_bench.states import States
from pillion_bench.suite import DataSpec

RESPONSE_TOKENS = 192
VALIDATION_SHARE = 0.25
TOKENS = (16, 32, 64, 128)
FALSE_STOPS = 0.01
SPLIT_SEED = 0
LOS_NET = LosNetSettings(max_tokens=RESPONSE_TOKENS)


@dataclass(frozen=True)
class DataSet:
    """Rows of prompts and answers.

    Attributes:
        train: file below the data folder whose rows are developed on.
        test: another, or the share of the rows of `train` that is held back.
        prompt: column of the prompts.
        response: column of the answers.
        label: column of the labels.
        positive: the label that is looked for.
        rows: of `train` that are used, at most.
    """

    train: str
    test: str | float
    prompt: str
    response: str
    label: str
    positive: str
    rows: int | None = None


DATA_SETS = {
    "beavertails": DataSet(
        "beavertails_dev/train.parquet",
        "beavertails_dev/test.parquet",
        "prompt",
        "response",
        "label",
        "unsafe",
    ),
    "halueval": DataSet(
        "halueval_general/all.parquet",
        0.3,
        "user_query",
        "chatgpt_response",
        "label",
        "yes",
        800,
    ),
}


@dataclass(frozen=True)
class Part:
    """Rows of one side of the split.

    Attributes:
        prompts: of the rows.
        responses: of the rows, cut.
        targets: one where the response has the label that is looked for.
        sources: states of each scope.
        signatures: of the responses, as LOS-Net reads them.
    """

    prompts: list[str]
    responses: list[str]
    targets: np.ndarray
    sources: dict[Scope, StateSource]
    signatures: list[Signature]

    def some(self, rows: np.ndarray) -> Part:
        """A part of it."""
        return Part(
            [self.prompts[row] for row in rows],
            [self.responses[row] for row in rows],
            self.targets[rows],
            {scope: SelectedRows(source, rows) for scope, source in self.sources.items()},
            [self.signatures[row] for row in rows],
        )


@dataclass(frozen=True)
class Said:
    """What a method says of the rows that count.

    Attributes:
        method: its name.
        seed: of its weights.
        scores: of whole rows.
        running: after every token, if it can.
        line: its threshold for so few false stops on validation rows.
    """

    method: str
    seed: int
    scores: np.ndarray
    running: Sequence[np.ndarray] | None = None
    line: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(DATA_SETS), choices=list(DATA_SETS))
    parser.add_argument("--cache", type=Path, help="keep hidden states here")
    parser.add_argument("--rows", type=int, help="of the training file at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--locked", action="store_true", help="read the test rows, once")
    options = parser.parse_args()
    settings = {
        "model": "embedded",
        "response_tokens": RESPONSE_TOKENS,
        "false_stops": FALSE_STOPS,
        "counted": "test" if options.locked else "validation",
        "train": TrainSettings().model_dump(),
    }
    rows: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    used: list[dict[str, str]] = []
    with run_folder(options.cache) as cache:
        for name in options.data:
            found, counts, files = measured(name, options, cache / name)
            rows[name] = counts
            results += found
            used += files
            kind = "answers" if options.locked else "answers-validation"
            write_result(kind, results, seed=0, settings={**settings, "rows": rows}, data=used)


def measured(
    name: str, options: argparse.Namespace, cache: Path
) -> tuple[list[dict[str, Any]], dict[str, int], list[dict[str, str]]]:
    """Every method's numbers on a data set, rows of each use, and the files that were read."""
    backend, data = load_backend(), DATA_SETS[name]
    rows = rows_of(data, data.train)
    used = [data_entry(DATA / data.train, "train and validation rows")]
    if isinstance(data.test, float):
        kept, test_ids = split_rows(rows, data, data.test)
        rows, test = rows.some(kept), rows.some(test_ids)
    else:
        test = None
    rows = rows.some(range(min(len(rows), options.rows or data.rows or len(rows))))
    with ExitStack() as caches:
        whole = part_of(backend, rows, data, cache / "train", caches)
        train_ids, held_ids = split_rows(rows, data, VALIDATION_SHARE)
        training, held = whole.some(train_ids), whole.some(held_ids)
        counted = held
        if options.locked:
            if test is None:
                test = rows_of(data, str(data.test))
            test = test.some(range(min(len(test), data.rows or len(test))))
            counted = part_of(backend, test, data, cache / "test", caches)
            used.append(data_entry(DATA / _test(data), "test"))
        said = all_methods(backend, training, held, counted, range(options.seeds))
    lines = [line for one in said for line in numbers(one, said[0], counted.targets)]
    for line in lines:
        print(name, line, flush=True)
    counts = {"train": len(train_ids), "validation": len(held_ids), "counted": len(counted.targets)}
    return [{"data": name, **line} for line in lines], counts, used


def _test(data: DataSet) -> str:
    """The file that the test rows stand in."""
    return data.test if isinstance(data.test, str) else data.train


def rows_of(data: DataSet, file: str) -> Rows:
    """Rows of a file."""
    layout = TableLayout(prompt_column=data.prompt, response_column=data.response)
    return read_rows(DATA / file, None, data.label, layout)


def split_rows(rows: Rows, data: DataSet, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Row ids without a share, and of the share; rows of one prompt stay together."""
    assert rows.labels is not None
    targets = LabelSpace.of(rows.labels, data.positive).encode(rows.labels)
    return split_validation(targets, share, SPLIT_SEED, groups=rows.groups)


def part_of(backend: Backend, rows: Rows, data: DataSet, folder: Path, caches: ExitStack) -> Part:
    """States of all tokens on disk, kept if they lie there, and what each scope reads of them."""
    assert rows.labels is not None
    space = LabelSpace.of(rows.labels, data.positive)
    tokens = [cut(row) for row in encode_rows(backend, rows.texts, "chat", scopes=["response"])]
    layers = range(backend.identity.num_layers + 1)
    source = kept_states(backend, tokens, layers, folder, "chat", "error")
    assert isinstance(source, CachedSource)
    caches.enter_context(source.reader)
    scopes: tuple[Scope, ...] = ("response", "last-user")
    last = caches.enter_context(CacheReader(source.reader.path, (backend.identity.num_layers,)))
    starts = [row.ranges("response")[0].start for row in tokens]
    return Part(
        [as_conversation(row)[-2].content for row in rows.texts],
        [words(backend, row) for row in tokens],
        space.encode(rows.labels),
        {scope: ScopedRows(source, tokens, scope) for scope in scopes},
        all_signatures(backend, CachedSource(last), tokens, starts, LOS_NET, silent),
    )


def cut(row: Tokens) -> Tokens:
    """A row up to the last token of the response that counts."""
    read = row.ranges("response")[0]
    end = min(read.stop, read.start + RESPONSE_TOKENS)
    kept = [replace(s, end=min(s.end, end)) for s in row.segments if s.begin < end]
    return Tokens(row[:end], kept)


def words(backend: Backend, row: Tokens) -> str:
    """The text of the response that counts."""
    return backend.decode([row[place] for part in row.ranges("response") for place in part])


def all_methods(
    backend: Backend, training: Part, held: Part, counted: Part, seeds: Sequence[int]
) -> list[Said]:
    """All methods; the gate that learns from uniform prefixes, the default, comes first."""
    said: list[Said] = []
    encoder = Encoder.load(EMBEDDER, 256)  # first: a missing package is an error before training
    for weighing in ("uniform", "softmax", "none"):
        settings = TrainSettings(prefixes=weighing)
        networks = gates(training, held, "response", settings, seeds)
        for seed, network in zip(seeds, networks, strict=True):
            said.append(answer_gate(f"gate-{weighing}", seed, network, held, counted))
            print(said[-1].method, seed, "trained", flush=True)
    networks = gates(training, held, "last-user", TrainSettings(), seeds)
    for seed, network in zip(seeds, networks, strict=True):
        scores = np.array([one[-1] for one in running_of(network, counted.sources["last-user"])])
        said.append(Said("prompt-gate", seed, scores))
    said += los_net(backend, training, held, counted, seeds)
    said.append(Said("tfidf", 0, tfidf(training, held, counted)))
    features = [encoder.embed(part.responses) for part in (training, held, counted)]
    said.append(Said("embeddings", 0, logistic(features, training, held)[0]))
    return said


def gates(
    training: Part, held: Part, scope: Scope, settings: TrainSettings, seeds: Sequence[int]
) -> list[Network]:
    """A gate a seed, trained side by side on the states of a scope."""
    batch = settings.rows_a_step(len(training.targets))
    configs = [ProbeConfig(seed=seed).at_batch(batch) for seed in seeds]
    sides = [Examples(part.sources[scope], part.targets) for part in (training, held)]
    return [one.network for one in train(sides[0], sides[1], "binary", 2, configs, settings)]


def answer_gate(method: str, seed: int, network: Network, held: Part, counted: Part) -> Said:
    """Running scores, and the threshold that stops so few harmless validation rows."""
    said = running_of(network, held.sources["response"])
    line = fpr_threshold(largest(said), held.targets, FALSE_STOPS)
    running = said if counted is held else running_of(network, counted.sources["response"])
    return Said(method, seed, np.array([one[-1] for one in running]), running, line)


def running_of(network: Network, source: StateSource) -> list[np.ndarray]:
    """Probabilities after every token of every row."""
    (logits,) = running_logits([network], source)
    return [probabilities("binary", one)[:, 0].double().numpy() for one in logits]


class ReadLosNet(LosNet):
    """LOS-Net on signatures that are there already, of the responses alone."""

    def __init__(self, parts: dict[str, Part]) -> None:
        super().__init__(LOS_NET)
        self._parts = parts

    def signatures(self, place: Workplace, part: ProblemPart) -> list[Signature]:
        """See `LosNet.signatures`."""
        return self._parts[part.name].signatures


def los_net(
    backend: Backend, training: Part, held: Part, counted: Part, seeds: Sequence[int]
) -> list[Said]:
    """LOS-Net a seed; what it says of validation rows where none others are counted."""
    test = None if counted is held else counted
    parts = {"train": training, "validation": held} | ({} if test is None else {"test": test})
    made = {name: problem_part(name, part) for name, part in parts.items()}
    space = LabelSpace.of(["no", "yes"], "yes")
    spec = DataSpec(train="", test="", template="raw", metrics=("auprc",))
    problem = Problem(
        "answers",
        spec,
        space,
        made["train"],
        made["validation"],
        made.get("test"),
        stores={},
        files=(),
    )
    place = Workplace(problem, States(backend, problem, Path()), Path())
    found = ReadLosNet(parts).fit(place, seeds)
    asked = problem.test
    scores = [one.validation if asked is None else one.ask(asked) for one in found]
    return [Said("los-net", seed, s[:, 0]) for seed, s in zip(seeds, scores, strict=True)]


def problem_part(name: str, part: Part) -> ProblemPart:
    """A part as methods of `bench accuracy` take it."""
    texts = tuple(part.responses)
    return ProblemPart(name, texts, part.targets, name, np.arange(len(texts)))


def tfidf(training: Part, held: Part, counted: Part) -> np.ndarray:
    """The better of word and character features on validation rows."""
    made = (
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]", sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    tried: list[tuple[np.ndarray, float]] = []
    for one in made:
        one.fit(training.responses)
        features = [one.transform(part.responses) for part in (training, held, counted)]
        tried.append(logistic(features, training, held))
    return max(tried, key=lambda found: found[1])[0]


def logistic(features: list[Any], training: Part, held: Part) -> tuple[np.ndarray, float]:
    """Scores of the third features by a model of the first, and its AUPRC on the second."""
    goal = Goal("binary", 1, "auprc")
    model = fit_logistic((features[0], training.targets), (features[1], held.targets), goal)
    return model.predict(features[2])[:, 0], auprc(model.predict(features[1])[:, 0], held.targets)


def auprc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Area under precision and recall."""
    found = evaluate(scores[:, None], targets, "binary", names=("auprc",))["auprc"]
    assert found is not None
    return found


def numbers(one: Said, best: Said, targets: np.ndarray) -> list[dict[str, Any]]:
    """AUPRC of whole rows and of beginnings, the difference to the first, and what a stop gives."""
    facts = {"method": one.method, "seed": one.seed}
    whole = interval(auprc, one.scores, targets)
    assert whole is not None
    lines: list[dict[str, Any]] = [
        {**facts, "metric": "auprc", "value": whole.estimate, "interval": [whole.low, whole.high]}
    ]
    if one.method != best.method:
        gain = paired_interval(auprc, best.scores, one.scores, targets)
        assert gain is not None
        lines.append(
            {**facts, "metric": "gate_minus_method_auprc", "value": gain.estimate}
            | {"interval": [gain.low, gain.high]}
        )
    if one.running is None:
        return lines
    lines += [
        {**facts, "metric": "auprc_after", "tokens": count}
        | {"value": auprc(after(one.running, count), targets)}
        for count in TOKENS
    ]
    lines.append(
        {**facts, "metric": "auprc_of_largest", "value": auprc(largest(one.running), targets)}
    )
    if one.line is not None:
        found = detection(one.running, targets, one.line)
        lines += [
            {**facts, "metric": name, "value": value, "threshold": one.line}
            for name, value in found.items()
        ]
    return lines


if __name__ == "__main__":
    main()
