"""Layers recommended before any probe is trained, against a sweep, and what fewer layers give.

    python -m benchmarks.layers [emotion] [agnews] [toxicchat] [--gates] [--cache FOLDER]
    python -m benchmarks.layers emotion agnews --model FILE.gguf --name qwen

Of each data set some training rows are studied as `pillion layers` does, into `layers-DATA.json`,
of another model into `layers-DATA-NAME.json`. With `--gates` a gate is trained on each set of
layers and on sets spread evenly, on the same rows, epoch chosen on validation rows; test rows are
read once.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.accuracy import run_folder
from benchmarks.result_file import DATA, data_entry, write_result
from pillion.backends import Backend, load_backend
from pillion.cache import CacheReader
from pillion.core import Template, defaults
from pillion.data import LabelSpace, Rows, read_rows, split_validation
from pillion.extract import CachedSource, SelectedRows, encode_rows, kept_states, pooled_source
from pillion.metrics import evaluate
from pillion.select import Identification, Targets, identify, identify_states, sample
from pillion.train import Examples, ProbeConfig, TrainSettings, evaluate_source, train

DATA_SETS: dict[str, tuple[str, str, str, Template]] = {
    "emotion": ("emotion", "train", "test", "raw"),
    "agnews": ("ag_news", "train_partial_desc_only", "test", "raw"),
    "toxicchat": ("toxicchat_0124_human", "train", "test", "chat"),
}
VALIDATION_SHARE = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", choices=[*DATA_SETS, []], help="all by default")
    parser.add_argument("--model", default=defaults.MODEL, help="a name, a folder or a GGUF file")
    parser.add_argument("--name", default="", help="of the model, in the names of its files")
    parser.add_argument("--rows", type=int, default=2000, help="studied")
    parser.add_argument("--train-rows", type=int, default=4000, help="that gates train on")
    parser.add_argument("--gates", action="store_true")
    parser.add_argument("--cache", type=Path, help="keep hidden states here")
    options = parser.parse_args()
    if (options.model == defaults.MODEL) == bool(options.name):
        parser.error("--name is of a model other than the embedded one, and such a model needs one")
    backend = load_backend(options.model)
    with run_folder(options.cache) as cache:
        for name in options.data or DATA_SETS:
            measure(name, backend, cache, options)


def measure(name: str, backend: Backend, cache: Path, options: argparse.Namespace) -> None:
    folder, split, test, template = DATA_SETS[name]
    path = DATA / folder / f"{split}.parquet"
    rows = read_rows(path)
    assert rows.labels is not None
    space = LabelSpace.of(rows.labels)
    taken = sample(len(rows), options.rows)
    targets = Targets(space.encode(rows.labels)[taken], space.task, len(space.names))
    if (cache / name / "train").exists():
        with CacheReader(cache / name / "train") as reader:
            found = identify_states(
                backend, pooled_source(SelectedRows(CachedSource(reader), taken)), targets
            )
    else:
        tokens = encode_rows(backend, [rows.texts[row] for row in taken], template)
        found = identify(backend, tokens, targets)
    results = described(found)
    data = [data_entry(path, split)]
    if options.gates:
        results += gates(name, backend, cache / name, rows, space, found, options)
        data.append(data_entry(DATA / folder / f"{test}.parquet", test))
    settings = {
        "model": {
            "name": options.name or defaults.MODEL,
            "weights_sha256": backend.identity.weights_sha256,
            "dtype": backend.identity.dtype,
        },
        "template": template,
        "rows_studied": len(taken),
        "pool": "mean",
        "score": found.score_name,
        "gates_trained_on_rows": options.train_rows if options.gates else 0,
    }
    suffix = f"-{options.name}" if options.name else ""
    write_result(f"layers-{name}{suffix}", results, seed=0, settings=settings, data=data)


def described(found: Identification) -> list[dict[str, Any]]:
    """The rule against the sweep, the sets, and every layer."""
    scores = {row.layer: row.score for row in found.rows}
    best, rule, lost = found.picked["sweep"], found.picked["silhouette"], found.lost["silhouette"]
    assert best is not None and rule is not None
    rows: list[dict[str, Any]] = [
        {"metric": "recommended_score", "layer": rule, "value": scores[rule]}
        | {"baseline": scores[best], "baseline_layer": best, "lost": lost and lost.estimate},
        {"metric": "auto_layers", "value": len(found.auto), "layers": list(found.auto)},
        {"metric": "inflections", "layers": [r.layer for r in found.rows if r.inflection]},
    ]
    rows += [
        {"metric": "linear_score", "num_layers": len(one.layers), "value": one.score}
        | {"layers": list(one.layers)}
        | asdict(cost)
        for one, cost in zip(found.sets, found.costs, strict=True)
    ]
    rows += [{"metric": "layer", "value": row.score, **asdict(row)} for row in found.rows]
    for row in rows:
        print({key: value for key, value in row.items() if key != "milliseconds"})
    return rows


def gates(
    name: str,
    backend: Backend,
    cache: Path,
    rows: Rows,
    space: LabelSpace,
    found: Identification,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Gates on each set of layers: validation and test metrics."""
    folder, _, test, _ = DATA_SETS[name]
    assert rows.labels is not None
    taken = sample(len(rows), options.train_rows)
    ids = space.encode(rows.labels)
    fit_ids, held_ids = (taken[part] for part in split_validation(ids[taken], VALIDATION_SHARE))
    test_rows = read_rows(DATA / folder / f"{test}.parquet")
    assert test_rows.labels is not None
    test_ids = space.encode(test_rows.labels)
    places = {"train": rows, "test": test_rows}
    for split, some in places.items():
        filled(name, backend, cache / split, some)
    results: list[dict[str, Any]] = []
    settings = TrainSettings()
    config = ProbeConfig(probe="gate", seed=0).at_batch(settings.rows_a_step(len(fit_ids)))
    for how, layers in wanted(found):
        with (
            CacheReader(cache / "train", layers) as one,
            CacheReader(cache / "test", layers) as two,
        ):
            source = CachedSource(one)
            parts = [Examples(SelectedRows(source, p), ids[p]) for p in (fit_ids, held_ids)]
            (trained,) = train(
                *parts, space.task, len(space.names), [config], settings, device=backend.device
            )
            said = evaluate_source(trained.network, CachedSource(two), space.task)
        metrics = evaluate(said.cpu().numpy(), test_ids, space.task)
        results += [
            {"metric": f"gate_test_{metric}", "chosen": how, "num_layers": len(layers)}
            | {"layers": list(layers), "value": metrics[metric]}
            for metric in ("accuracy", "auprc")
        ]
        print(results[-2], results[-1]["value"], flush=True)
    return results


def wanted(found: Identification) -> list[tuple[str, tuple[int, ...]]]:
    """The sets that were found and, of the same sizes, sets spread evenly over the depth."""
    last = len(found.rows) - 1
    sets: list[tuple[str, tuple[int, ...]]] = []
    for one in found.sets:
        size = len(one.layers)
        sets.append(("selected", one.layers))
        if 1 < size <= last:
            evenly = tuple(round(i * last / (size - 1)) for i in range(size))
            sets.append(("evenly spread", evenly))
    return sets


def filled(name: str, backend: Backend, folder: Path, rows: Rows) -> None:
    """All layers' states of all rows on disk, kept if they lie there."""
    template = DATA_SETS[name][3]
    tokens = encode_rows(backend, rows.texts, template)
    layers = range(backend.identity.num_layers + 1)
    kept_states(backend, tokens, layers, folder, template, "error").reader.close()


if __name__ == "__main__":
    main()
