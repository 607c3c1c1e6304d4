"""Texts that leave early: how many decisions differ from full depth, F1, and texts a second.

    python -m benchmarks.exits [--data toxicchat emotion sst2] [--rows 1500] [--held 1500]
        [--measured 1000] [--text-tokens 64] [--seeds 0 1 2] [--depths auto] [--share 0.01]
        [--locked]

A gate with depths and one without learn from the same states. Bands are chosen on held rows, and
what is measured are other rows of the training files, or with `--locked` the test rows. Speed is
of rows with nearly so many tokens, whole and with exits in turns in one process. A result file a
data set: `exits-NAME.json` of a locked run, else `exits-NAME-validation.json`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result_file import DATA, data_entry, write_result
from pillion.cli.layers import AUTO, parse_layers
from pillion.data import LabelSpace, Rows, read_rows
from pillion.errors import DataError
from pillion.evals import CalibrationSettings, ExitWish, Labelled, Operating, calibrate, choose_exit
from pillion.evals.calibrate import apply
from pillion.evals.exit_rows import decisions_of, simulate
from pillion.evals.exits import upper_bound
from pillion.fit import FitSettings, fit
from pillion.metrics import evaluate
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, encode_rows, pad_batch, score_batches, watch
from pillion.train import ProbeConfig, TrainSettings

FILES = {
    "toxicchat": ("toxicchat_0124_human/train.parquet", "toxicchat_0124_human/test.parquet"),
    "emotion": ("emotion/train.parquet", "emotion/test.parquet"),
    "sst2": ("sst2/train.parquet", "sst2/validation.parquet"),
    "imdb": ("imdb/train.parquet", "imdb/test.parquet"),
}
"""Rows to learn from, choose on and measure on; and those of a locked run (SST-2's test rows have
no labels, its validation rows stand for them everywhere)."""
SHORT = ("toxicchat", "emotion", "sst2")
TIMED_ROWS, TURNS = 128, 5
LIMIT, F1_LIMIT, SPEED = 0.01, 0.005, 1.5
"""Wanted: decisions that differ, F1 that is lost, and texts a second, at least."""


@dataclass(frozen=True)
class Split:
    """Disjoint rows to learn from, to choose bands on and to measure on."""

    train: Rows
    held: Rows
    measured: Rows


def split_of(name: str, model: LanguageModel, options: argparse.Namespace) -> Split:
    """Always the same rows for the same numbers; those of a locked run are of the test file."""
    train, test = (DATA / path for path in FILES[name])
    rows = shuffled(read_rows(train), model, options.max_tokens)
    first, second = options.rows, options.rows + options.held
    rest = rows.some(range(second, len(rows)))
    if options.locked:
        rest = shuffled(read_rows(test), model, options.max_tokens)
    most = len(rest) if options.locked and not options.measured_locked else options.measured
    return Split(
        rows.some(range(first)),
        rows.some(range(first, second)),
        rest.some(range(min(most, len(rest)))),
    )


def shuffled(rows: Rows, model: LanguageModel, max_tokens: int | None) -> Rows:
    """The rows in an order of chance, without those that are too long."""
    order = np.random.default_rng(0).permutation(len(rows))
    if max_tokens:
        order = [i for i in order if len(str(rows.texts[i])) <= 8 * max_tokens]
        order = [
            i for i in order if len(model.backend.encode(str(rows.texts[i]), "raw")) <= max_tokens
        ]
    return rows.some(order)


def trained(
    model: LanguageModel, split: Split, work: Path, options: argparse.Namespace
) -> tuple[list[Artefact], list[Artefact]]:
    """A gate a seed without depths and with them, from the same states."""
    configs = [ProbeConfig(seed=seed) for seed in options.seeds]
    found: list[list[Artefact]] = []
    for depths in ((), depths_of(model, options.depths)):
        settings = FitSettings(
            depths=depths,
            cache=work / "states",
            on_too_long="truncate-tail",
            train=TrainSettings(epochs=options.epochs),
        )
        place = work / f"fit-{len(found)}"
        fitted = fit(model, split.train, None, configs, place, settings, say=print)
        found.append(sorted((one.artefact for one in fitted), key=lambda one: one.card.seed))
    return found[0], found[1]


def depths_of(model: LanguageModel, words: str) -> Any:
    if words == AUTO:
        return AUTO
    return parse_layers(words, model.backend.identity.num_layers)


def said(
    model: LanguageModel, artefacts: Sequence[Artefact], depths: Sequence[int], rows: Rows
) -> list[np.ndarray]:
    """Logits of every probe at every depth, (row, depth, output), in one pass over the rows."""
    named = [replace(one.whole, name=f"p{i}") for i, one in enumerate(artefacts)]
    card = artefacts[0].card
    tokens = encode_rows(
        model.backend, rows.texts, card.template, "truncate-tail", scopes=[card.scope]
    )
    found = [np.empty((len(rows), len(depths), one.card.shape.num_outputs)) for one in named]
    with watch(model.backend, named) as reading:
        for batch in score_batches([len(row) for row in tokens]):
            some = [tokens[i] for i in batch]
            reading.expect(some)
            model.backend.forward(*pad_batch(some))
            logits = reading.logits_at(depths)
            for one, own in zip(named, found, strict=True):
                own[batch] = logits[one.name].double().numpy()
    return found


def calibrated(
    artefact: Artefact, logits: np.ndarray, labelled: Labelled, wish: ExitWish | None
) -> Artefact:
    """The probe with temperature, thresholds of best F1 and, if wished, exits."""
    card = artefact.card
    probs = apply(card.task, None, logits[:, -1])
    operating = Operating(best_f1=card.task != "multiclass")
    settings = CalibrationSettings("temperature" if wish is None else wish.method, operating)
    new, _ = calibrate(artefact, probs, labelled.targets, settings, labelled.facts)
    return new if wish is None else choose_exit(new, logits, labelled.targets, wish, labelled.facts)


def measured_of(artefact: Artefact, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """What exits do to rows that nothing was chosen on."""
    card = artefact.card
    assert card.exit is not None
    whole = apply(card.task, card.calibration, logits[:, -1])
    left = simulate(card, card.exit.reads, card.exit.patience, logits[:, :-1], whole)
    differs = int((decisions_of(card, whole) != decisions_of(card, left.probs)).any(1).sum())
    layers = np.array([*(card.num_layers_to(depth) for depth in card.depths), len(card.layers)])
    f1 = [
        evaluate(probs, targets, card.task, card.thresholds, ("f1",))["f1"]
        for probs in (whole, left.probs)
    ]
    counts = np.bincount(left.depth, minlength=len(layers))
    return {
        "differing": differs / len(targets),
        "differing_at_most": upper_bound(differs, len(targets)),
        "f1_at_full_depth": f1[0],
        "f1_with_exits": f1[1],
        "share_of_layers": float((counts * layers).sum() / (len(targets) * len(card.layers))),
        "left_at": dict(zip([*card.depths, card.layers[-1]], counts.tolist(), strict=True)),
    }


def at_depths(artefact: Artefact, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """F1 of each depth alone, at thresholds of the card; calibrated as the bands are."""
    card = artefact.card
    assert card.exit is not None
    found: dict[str, Any] = {}
    for read in card.exit.reads:
        probs = apply(card.task, read.calibration, logits[:, card.depths.index(read.depth)])
        found[f"f1_at_{read.depth}"] = evaluate(
            probs, targets, card.task, card.thresholds, ("f1",)
        )["f1"]
    return found


def timed(
    model: LanguageModel, artefact: Artefact, rows: Rows, options: argparse.Namespace
) -> dict[str, float]:
    """Texts a second whole and with exits, in turns: the medians, and of the turns' ratios."""
    card = artefact.card
    tokens = encode_rows(
        model.backend, rows.texts, card.template, "truncate-tail", scopes=[card.scope]
    )
    order = np.argsort([abs(len(row) - options.text_tokens) for row in tokens], kind="stable")
    some = [tokens[i] for i in order[: options.timed]]
    for one in (artefact, artefact.whole):
        model.score_rows(some[:32], [one])
    speeds: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(options.turns):
        for leaves in (True, False) if turn % 2 else (False, True):
            begin = time.perf_counter()
            model.score_rows(some, [artefact if leaves else artefact.whole])
            speeds[leaves].append(len(some) / (time.perf_counter() - begin))
    ratios = [a / b for a, b in zip(speeds[True], speeds[False], strict=True)]
    return {
        "tokens_a_text": statistics.mean(map(len, some)),
        "texts_a_second_whole": statistics.median(speeds[False]),
        "texts_a_second": statistics.median(speeds[True]),
        "times_as_fast": statistics.median(ratios),
        "least_times_as_fast": min(ratios),
    }


def measure(
    name: str, model: LanguageModel, work: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    split = split_of(name, model, options)
    assert split.train.labels is not None
    print(name, LabelSpace.of(split.train.labels).names, flush=True)
    plain, deep = trained(model, split, work, options)
    results: list[dict[str, Any]] = []

    def note(seed: int, way: str, **numbers: Any) -> None:
        print(name, seed, way, numbers, flush=True)
        results.extend(
            {"metric": k, "value": v, "way": way, "seed": seed} for k, v in numbers.items()
        )

    every, depths = [*plain, *deep], (*deep[0].card.depths, deep[0].card.layers[-1])
    of_held, of_rest = (said(model, every, depths, rows) for rows in (split.held, split.measured))
    for place, other in enumerate(deep):
        seed = other.card.seed
        held, rest = (Labelled.of(other.card, rows) for rows in (split.held, split.measured))
        without = calibrated(plain[place], of_held[place], held, None)
        probs = apply(other.card.task, without.card.calibration, of_rest[place][:, -1])
        lines, names = without.card.thresholds, ("f1", "accuracy")
        numbers = evaluate(probs, rest.targets, other.card.task, lines, names)
        note(seed, "without depths", **numbers)
        own, measured = of_held[len(plain) + place], of_rest[len(plain) + place]
        for method, patience in itertools.product(options.methods, options.patience):
            wish = ExitWish(options.share, method, patience or None)
            way = f"{method}, patience {patience}" if patience else method
            try:
                leaving = calibrated(other, own, held, wish)
            except DataError as error:
                note(seed, way, refused=str(error))
                continue
            note(seed, way, **measured_of(leaving, measured, rest.targets))
            note(seed, way, **at_depths(leaving, measured, rest.targets))
            if place == 0 and (method, patience) == (options.methods[0], options.patience[0]):
                note(seed, way, **timed(model, leaving, split.measured, options))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=SHORT, choices=list(FILES))
    parser.add_argument("--rows", type=int, default=1500, help="that probes learn from")
    parser.add_argument("--held", type=int, default=1500, help="rows that bands are chosen on")
    parser.add_argument("--measured", type=int, default=1000, help="of a run that is not locked")
    parser.add_argument("--measured-locked", action="store_true", help="of a locked run, too")
    parser.add_argument("--max-tokens", type=int, help="longer texts are left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--depths", default=AUTO)
    parser.add_argument("--methods", nargs="+", default=["temperature"])
    parser.add_argument("--patience", type=int, nargs="+", default=[0], help="0: bands alone")
    parser.add_argument("--share", type=float, default=LIMIT)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--text-tokens", type=int, default=64, help="of texts that are timed")
    parser.add_argument("--timed", type=int, default=TIMED_ROWS, help="texts a turn")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--states", type=Path, help="keep hidden states here")
    parser.add_argument("--locked", action="store_true", help="measure on test rows")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.data:
            work = Path(options.states or folder) / name
            results = measure(name, model, work, options)
            uses = ("train and validation rows", "test rows")[: 1 + options.locked]
            data = [data_entry(DATA / p, use) for p, use in zip(FILES[name], uses, strict=False)]
            kind = name if options.locked else f"{name}-validation"
            settings = {k: v for k, v in vars(options).items() if k != "states"}
            settings |= {"wanted": {"differing": LIMIT, "f1": F1_LIMIT, "times_as_fast": SPEED}}
            write_result(
                f"exits-{kind}", results, seed=options.seeds[0], settings=settings, data=data
            )


if __name__ == "__main__":
    main()
