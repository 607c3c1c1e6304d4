"""`pillion train`: a probe from labelled texts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len

from pillion.cli.app import app, err, out, print_json
from pillion.cli.failures import fitting, say_left_out
from pillion.cli.options import SOURCES, EngineOptions, Json, Without, takes_options
from pillion.cli.output import number
from pillion.cli.places import check_folder, check_probe_folder, kept_if_unsaved, work_folder
from pillion.cli.progress import progress_bar
from pillion.cli.rows import RowOptions
from pillion.cli.sets import SetOptions, read_sets
from pillion.cli.train_options import GridOptions, LearningOptions, ReadingOptions, StateOptions
from pillion.core import Scope, defaults
from pillion.errors import ConfigError

MAX_LABELS = 30
"""Labels whose rows are printed."""
NEXT_OF: dict[Scope, tuple[str, str]] = {
    "response": ("generate", "'...'"),
    "assistant": ("generate", "'...'"),
    "system": ("predict", "--input FILE"),
    "tool": ("predict", "--input FILE"),
}
"""What shows a probe at work that reads no word of a lone text."""


@app.command()
@takes_options
def train(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]PATH",
            help=f"Labelled texts: {SOURCES}. Repeat it for several sets in one probe.",
        ),
    ],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the probe; a probe there is replaced.")
    ],
    sets: SetOptions,
    rows: RowOptions,
    grid: GridOptions,
    learning: LearningOptions,
    reading: ReadingOptions,
    engine: Annotated[EngineOptions, Without("exact", "allow_mismatch")],
    states: StateOptions,
    as_json: Json = False,
) -> None:
    """Train a probe on labelled texts.

    The language model stays as it is: its hidden states are read once and a small classifier is
    trained on them. Of several configurations the best on validation is saved. Stopped by Ctrl-C,
    the same command goes on where it was.
    """
    from pillion.fit import default_scope, fit
    from pillion.runtime import usual_template

    _check_places(out_folder, states)
    configs, train_settings = grid.configs(), learning.settings()
    tables = read_sets(rows, data, sets)
    model = engine.load()
    backend, kept = model.backend, {"live": states.live, "cache": states.cache}
    wrapping = usual_template(backend.identity, reading.template, err.print)
    num_layers, long = backend.identity.num_layers, engine.on_too_long
    how = reading.settings(wrapping, num_layers, train=train_settings, on_too_long=long, **kept)
    words = reading.scope or default_scope(tables[0].texts, wrapping)
    skip = rows.skip_bad_rows
    tables = [fitting(one, backend, wrapping, long, words, skip) for one in tables]
    for one, part in zip(tables, ("", ".validation"), strict=False):
        say_left_out(one, out_folder, part)
    labelled, held = tables[0], tables[1] if len(tables) > 1 else None
    with work_folder(out_folder) as work:
        with progress_bar() as bar:
            fitted = fit(model, labelled, held, configs, work, how, bar, say=err.print)
        with kept_if_unsaved():
            fitted[0].artefact.save(out_folder)
    _show(fitted, out_folder, engine, as_json)


def _check_places(out_folder: Path, states: StateOptions) -> None:
    check_probe_folder(out_folder)
    if states.cache is None:
        return
    if states.live:
        raise ConfigError("--live keeps no states and --cache keeps them; give one of the two.")
    check_folder(states.cache, "--cache")
    cache, target = states.cache.resolve(), out_folder.resolve()
    if target in (cache, *cache.parents):
        raise ConfigError(
            f"--cache {states.cache} lies in --out {out_folder}, and a probe stands "
            "alone in its folder; give another one."
        )


def _show(fitted: list[Any], folder: Path, engine: EngineOptions, as_json: bool) -> None:
    runs: list[dict[str, Any]] = [
        {
            "probe": one.trained.config.probe,
            "settings": one.trained.config.settings,
            "learning_rate": None if one.trained.solved else one.trained.config.rate,
            "seed": one.trained.config.seed,
            "best_epoch": None if one.trained.solved else one.trained.best_epoch,
            "auto": one.artefact.card.training.get("auto"),
            "parameters": one.artefact.network.num_parameters,
            "layers": one.artefact.card.layers,
            "thresholds": one.artefact.card.thresholds,
            "validation": one.artefact.card.metrics,
        }
        for one in fitted
    ]
    told = fitted[0].artefact.card.data.model_dump(include={"labels", "notes"})
    if as_json:
        return print_json({"out": str(folder), **runs[0], "runs": runs, **told})
    _show_labels(told["labels"], fitted[0].artefact.card.data.num_rows)
    for run in runs:
        numbers = {k: run["validation"][k] for k in ("accuracy", "f1", "auprc")}
        shown = "  ".join(f"{k} {number(v, k)}" for k, v in numbers.items())
        name = " ".join([run["probe"], *(f"{k}={v}" for k, v in run["settings"].items())])
        how = (
            "in closed form"
            if run["best_epoch"] is None
            else f"lr {run['learning_rate']:g}  seed {run['seed']}  epoch {run['best_epoch']}"
        )
        out.print(f"{name:<12} {how}  validation: {shown}")
        if run["auto"] is not None:
            tried = ", ".join(_tried(*one) for one in run["auto"]["tried"].items())
            out.print(f"{'':<12} chosen by {run['auto']['by']}: {tried}")
    out.print(f"Saved in {folder}. Next: {_next(folder, fitted[0].artefact.card.scope, engine)}")


def _next(folder: Path, scope: Scope, engine: EngineOptions) -> str:
    """A command that a probe of this scope can read something in."""
    probe = f"--probe {shlex.quote(str(folder))}"
    verb, last = NEXT_OF.get(scope, ("predict", "--text '...'"))
    # An answer that is generated was never cut.
    engine = replace(engine, on_too_long=defaults.ON_TOO_LONG) if verb == "generate" else engine
    return " ".join([f"pillion {verb} {probe} {last}", *map(shlex.quote, engine.words())])


def _tried(name: str, found: dict[str, Any]) -> str:
    """A candidate and its score."""
    score = next(iter(found.values()))
    return f"{name} {'undefined' if score is None else format(score, '.3f')}"


def _show_labels(labels: Sequence[dict[str, Any]], num_rows: int) -> None:
    """A line a label: rows to train and to validate on, and the share of the training rows."""
    width = max(len("label"), *(cell_len(one["label"]) for one in labels[:MAX_LABELS]))
    out.print(f"{'label':<{width}}  {'train':>8}  {'validation':>10}  share")
    for one in labels[:MAX_LABELS]:
        pad = " " * (width - cell_len(one["label"]))
        share = one["train"] / max(num_rows, 1)
        out.print(
            f"{one['label']}{pad}  {one['train']:>8,}  {one['validation']:>10,}  {share:>5.1%}"
        )
    if len(labels) > MAX_LABELS:
        out.print(f"... and {len(labels) - MAX_LABELS} more labels (--json has all)")
