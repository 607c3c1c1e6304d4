"""What each rule that picks one layer loses against the best layer, over data sets and backbones.

    python -m benchmarks.layer_rules [emotion] [ag-news] ... [--model NAME] [--states FOLDER]

Of every data set some training rows are studied as `pillion layers` does, and a gate is trained on
them. Each layer is then scored on validation rows, by a ridge classifier of the training rows: the
regret of a rule is the best layer's score less that of the layer that the rule picks. No test row
is read.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.result_file import DATA, data_entry, write_result
from pillion.cache import CacheReader
from pillion.core import Template
from pillion.data import LabelSpace, Rows, read_rows, split_validation
from pillion.extract import CachedSource, pooled_source
from pillion.fit import FitSettings, fit
from pillion.runtime import LanguageModel, encode_rows
from pillion.select import RULES, LayerRow, Targets, sample, study_layers
from pillion.select.identify import WEIGHT_ROWS
from pillion.select.ridge import leave_one_out, standardised
from pillion.select.rules import Rule
from pillion.select.weights import learned_attention
from pillion.train import ProbeConfig


@dataclass(frozen=True)
class Source:
    """Where the rows of a data set are.

    Attributes:
        train: a file below the data folder.
        validation: another one; None for a share of `train`.
        template: how the model is shown a text.
        rows: to learn from, at most; half as many choose.
    """

    train: str
    validation: str | None = None
    template: Template = "raw"
    rows: int = 1000


DATA_SETS = {
    "emotion": Source("emotion/train.parquet", "emotion/validation.parquet"),
    "ag-news": Source("ag_news/train_partial_desc_only.parquet", rows=600),
    "sst2": Source("sst2/train.parquet"),
    "banking77": Source("banking77/train.parquet"),
    "clinc150": Source("clinc150/train.parquet", "clinc150/validation.parquet"),
    "toxicchat": Source("toxicchat_0124_human/train.parquet", template="chat", rows=500),
    "korean": Source(
        "korean_hate_speech/train.parquet", "korean_hate_speech/validation.parquet", rows=600
    ),
}


def middle(rows: Sequence[LayerRow]) -> int:
    """The layer halfway up."""
    return rows[len(rows) // 2].layer


def last(rows: Sequence[LayerRow]) -> int:
    """The last layer, whatever was measured."""
    return rows[-1].layer


def highest(rows: Sequence[LayerRow]) -> int:
    """The layer with the highest silhouette, whether it bends there or not."""
    return max(rows, key=lambda row: row.silhouette or -1.0).layer


def steepest(rows: Sequence[LayerRow]) -> int:
    """The layer with the largest relative change."""
    return max(rows, key=lambda row: row.relative_change or 0.0).layer


def fisher(rows: Sequence[LayerRow]) -> int:
    """The layer with the highest Fisher ratio."""
    return max(rows, key=lambda row: row.fisher or 0.0).layer


EVERY: dict[str, Rule] = {
    **RULES,
    "highest silhouette": highest,
    "steepest": steepest,
    "fisher": fisher,
    "middle": middle,
    "last": last,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", choices=[*DATA_SETS, []], help="all by default")
    parser.add_argument("--model", action="append", help="repeat it; default: embedded")
    parser.add_argument("--states", type=Path, help="keep hidden states below this folder")
    parser.add_argument("--rows", type=int, help="to learn from, at most, in every data set")
    options = parser.parse_args()
    names = options.data or list(DATA_SETS)
    sources = {
        name: replace(one, rows=min(one.rows, options.rows or one.rows))
        for name, one in DATA_SETS.items()
        if name in names
    }
    results: list[dict[str, Any]] = []
    for name in options.model or ["embedded"]:
        model = LanguageModel.load(name)
        for data in names:
            found = measure(data, sources[data], name, model, options.states)
            results += found
            print([(row["rule"], row["layer"], round(row["value"], 4)) for row in found])
    files = {(one.train, "train") for one in sources.values()}
    files |= {(one.validation, "validation") for one in sources.values()}
    write_result(
        "layer-rules",
        [*results, *means(results)],
        seed=0,
        settings={
            "models": options.model or ["embedded"],
            "data": {name: asdict(one) for name, one in sources.items()},
            "probe": "gate",
            "pool": "mean",
            "rows": "validation",
        },
        data=[data_entry(DATA / path, split) for path, split in sorted(files, key=str) if path],
    )


def measure(
    data: str, source: Source, name: str, model: LanguageModel, states: Path | None
) -> list[dict[str, Any]]:
    """One entry a rule."""
    train, held, space = parts(source)
    folder = Path(tempfile.mkdtemp()) if states is None else states / data / name.replace("/", "_")
    try:
        rows, scores = studied(train, held, space, source.template, model, folder)
    finally:
        if states is None:
            shutil.rmtree(folder)
    best = max(range(len(scores)), key=scores.__getitem__)
    shared = {"metric": "regret", "data": data, "model": name, "score_name": score_name(space)}
    shared |= {"best_layer": best, "best_score": scores[best], "validation_rows": len(held)}
    picked = [(rule, pick(rows)) for rule, pick in EVERY.items()]
    return [
        {**shared, "rule": rule, "layer": layer, "value": scores[best] - scores[layer]}
        for rule, layer in picked
        if layer is not None
    ] + [
        # What drawing a layer would lose: a rule that says nothing does not do better.
        {**shared, "rule": "any", "layer": None}
        | {"value": scores[best] - statistics.fmean(scores), "scores": scores}
    ]


def parts(source: Source) -> tuple[Rows, Rows, LabelSpace]:
    """Rows to learn from and rows that judge, and their labels."""
    rows = read_rows(DATA / source.train)
    if source.validation is None:
        ids = LabelSpace.of(rows.labels or ()).encode(rows.labels or ())
        learn, asked = split_validation(ids, 0.2)
        train, held = rows.some(learn), rows.some(asked)
    else:
        train, held = rows, read_rows(DATA / source.validation)
    train = train.some(sample(len(train), source.rows))
    held = held.some(sample(len(held), source.rows // 2))
    assert train.labels is not None and held.labels is not None
    # Where labels are many, some have no row among so few.
    known = [row for row, label in enumerate(held.labels) if label in set(train.labels)]
    return train, held.some(known), LabelSpace.of(train.labels)


def score_name(space: LabelSpace) -> str:
    """Of the score that layers are held against each other by."""
    return "accuracy" if space.task == "multiclass" else "auprc"


def studied(
    train: Rows,
    held: Rows,
    space: LabelSpace,
    template: Template,
    model: LanguageModel,
    folder: Path,
) -> tuple[list[LayerRow], list[float]]:
    """What a study says of every layer, and its score on the rows that judge."""
    how = FitSettings(template=template, scope="all", cache=folder)
    (fitted,) = fit(model, train, held, [ProbeConfig()], folder / "work", how)
    targets, judged = (
        Targets(space.encode(rows.labels or ()), space.task, len(space.names))
        for rows in (train, held)
    )
    states: list[Tensor] = []
    for part in ("train", "validation"):
        with CacheReader(folder / part) as reader:
            states.append(pooled_source(CachedSource(reader)))
    tokens = encode_rows(model.backend, train.texts[:WEIGHT_ROWS], template)
    attention = learned_attention(model.backend, fitted.artefact, tokens)
    rows = study_layers(states[0], targets, range(len(states[0])), attention)
    learnt, asked = states
    scores = [judge(*both, targets, judged) for both in zip(learnt, asked, strict=True)]
    return rows, scores


def judge(train: Tensor, held: Tensor, targets: Targets, judged: Targets) -> float:
    """How well a ridge classifier of the training rows does on the others, on one layer."""
    mean, deviation = train.double().mean(0), train.double().std(0, correction=0)
    features, asked = (
        (rows.double() - mean) / deviation.clamp(min=1e-12) for rows in (train, held)
    )
    penalty = leave_one_out(standardised(train), targets.signs).penalty
    offset = targets.signs.mean(0)
    gram = features.T @ features
    gram += penalty * gram.trace() / len(features) * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram, features.T @ (targets.signs - offset))
    found = judged.score(asked @ weights + offset)
    assert found is not None
    return found


def means(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every rule over data sets and backbones: the mean regret and the largest."""
    found: list[dict[str, Any]] = []
    for rule in (*EVERY, "any"):
        values = [row["value"] for row in results if row["rule"] == rule]
        found.append({"metric": "mean_regret", "rule": rule, "value": statistics.fmean(values)})
        found.append({"metric": "largest_regret", "rule": rule, "value": max(values)})
    return found


if __name__ == "__main__":
    main()
