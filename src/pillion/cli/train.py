"""`pillion train`: a probe from labelled texts."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.cells import cell_len

from pillion.cli.app import (
    SEED_MAX,
    SOURCES,
    Device,
    Dtype,
    Json,
    Model,
    Placed,
    Scoped,
    TooLong,
    Wrapping,
    app,
    err,
    out,
    print_json,
)
from pillion.cli.failures import fitting, say_left_out
from pillion.cli.layers import AUTO, parse_layers
from pillion.cli.output import number
from pillion.cli.places import check_folder, check_probe_folder, work_folder
from pillion.cli.progress import progress_bar
from pillion.cli.rows import USUAL_ROWS, RowOptions, takes_rows
from pillion.cli.sets import read_sets
from pillion.errors import ConfigError

MAX_LABELS = 30
"""Labels whose rows are printed."""


@app.command()
@takes_rows
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
    validation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SET=]PATH",
            help="Rows that choose epoch and threshold; default: a tenth of --data, or a fifth "
            "below 1,000 rows. With several sets: of which set they are.",
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="SET.LABEL=NAME",
            help="What a label of a set is called in the probe; repeat it for others.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weight",
            metavar="SET=SHARE",
            help="Share of a set in the loss, 0 to 1; default: what its rows make of it.",
        ),
    ] = None,
    rows: RowOptions = USUAL_ROWS,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="gate (default), gate-mlp, gate-paper, attention, multimax, rolling, concat, "
            "mha, mha-causal or pooling; or auto, which chooses. This and the next three may be "
            "repeated: every combination is trained.",
        ),
    ] = None,
    heads: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Heads, of a probe that has several.")
    ] = None,
    lr: Annotated[
        list[float] | None,
        typer.Option(metavar="RATE", help="Learning rate; default: the probe's own."),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=0, max=SEED_MAX, help="Of the initial weights; default: 0."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of every probe trained, such as members=3; may be repeated.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the rows, 1 to 1,000; default: 4, more below 800 rows."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows a step; default: 32, or 8 below 1,000 rows.")
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Every label counts the same, however rare.")
    ] = False,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Learn once more, from the validation rows too, for as many epochs as were best.",
        ),
    ] = False,
    prefixes: Annotated[
        Literal["none", "uniform", "softmax"] | None,
        typer.Option(
            help="Learn from prefixes of each row, too, weighed alike or by the softmax of their "
            "scores; default: uniform for probes of responses, else none."
        ),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Which of two labels is positive; default: by their names.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to read, such as 0-15 or 0,4,8 (0: embeddings), or auto: the fewest that "
            "hold nearly all, as pillion layers finds them; default: all."
        ),
    ] = None,
    depths: Annotated[
        str | None,
        typer.Option(
            help="Layers at which the probe can be read out, too, such as 8,16,24, or auto: texts "
            "that are only classified may stop there, once calibrate --exit has chosen when."
        ),
    ] = None,
    read: Annotated[
        Literal["states", "router"],
        typer.Option(
            help="What is read: the layers' states, or beside them the logits of every router of a "
            "mixture of experts."
        ),
    ] = "states",
    template: Wrapping = None,
    scope: Scoped = None,
    contexts: Placed = "none",
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Learn from each row once more, changed by one of these: case, spaces, leet, "
            "typos, padding.",
        ),
    ] = None,
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep the hidden states in this folder, for the next training on them."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Keep no states on disk: run the model in every epoch.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a probe on labelled texts.

    The language model stays as it is: its hidden states are read once and a small classifier is
    trained on them. Of several configurations the best on validation is saved. Stopped by Ctrl-C,
    the same command goes on where it was.
    """
    from pillion.data import contexts_of
    from pillion.fit import FitSettings, default_scope, fit
    from pillion.runtime import LanguageModel, usual_template
    from pillion.train import TrainSettings

    _check_places(out_folder, cache, live)
    configs = _configs(probe or ["gate"], heads, lr, seed, _pairs(settings or []))
    given = {"epochs": epochs, "batch_size": batch_size, "prefixes": prefixes}
    shared: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    shared |= {"class_weights": "balanced" if balanced else "none", "refit": refit}
    train_settings = make_strict(TrainSettings, shared)
    tables = read_sets(rows, data, validation or [], maps or [], weights or [])
    language_model = LanguageModel.load(model, dtype, device)
    num_layers = language_model.backend.identity.num_layers
    wrapping = usual_template(language_model.backend.identity, template, err.print)
    how = FitSettings(
        template=wrapping,
        scope=scope,
        contexts=contexts_of(contexts),
        augment=_kinds(augment),
        layers="auto" if layers == AUTO else parse_layers(layers, num_layers),
        depths=AUTO if depths == AUTO else parse_layers(depths, num_layers, "--depths") or (),
        read=read,
        on_too_long=on_too_long,
        positive=positive,
        live=live,
        cache=cache,
        train=train_settings,
    )
    skip, backend = rows.skip_bad_rows, language_model.backend
    words = scope or default_scope(tables[0].texts, wrapping)
    tables = [fitting(one, backend, wrapping, on_too_long, words, skip) for one in tables]
    for one, part in zip(tables, ("", ".validation"), strict=False):
        say_left_out(one, out_folder, part)
    labelled, held = tables[0], tables[1] if len(tables) > 1 else None
    with work_folder(out_folder) as work:
        with progress_bar() as bar:
            fitted = fit(language_model, labelled, held, configs, work, how, bar, say=err.print)
        fitted[0].artefact.save(out_folder)
    _show(fitted, out_folder, model, as_json)


def _check_places(out_folder: Path, cache: Path | None, live: bool) -> None:
    check_probe_folder(out_folder)
    if cache is None:
        return
    if live:
        raise ConfigError("--live keeps no states and --cache keeps them; give one of the two.")
    check_folder(cache, "--cache")


def _kinds(given: str | None) -> tuple[str, ...]:
    """Changes of texts, each once; checked before anything is read."""
    from pillion.data.augment import check_kinds

    kinds = tuple(dict.fromkeys(one.strip() for one in (given or "").split(",") if one.strip()))
    check_kinds(kinds)
    return kinds


def _pairs(settings: list[str]) -> dict[str, str]:
    """NAME=VALUE as a mapping; the probe checks names and values.

    Raises:
        ConfigError: for one without `=`.
    """
    for setting in settings:
        if "=" not in setting:
            raise ConfigError(f"--set got {setting!r}; write NAME=VALUE.")
    return dict(setting.split("=", 1) for setting in settings)


def _configs(
    probes: list[str],
    heads: list[int] | None,
    rates: list[float] | None,
    seeds: list[int] | None,
    settings: dict[str, str],
) -> list[Any]:
    """Every combination of what was given."""
    from pillion.train import ProbeConfig

    grid = itertools.product(probes, heads or [None], rates or [None], seeds or [0])
    return [
        make_strict(
            ProbeConfig,
            {
                "probe": name,
                "settings": settings if count is None else {**settings, "num_heads": count},
                "learning_rate": rate,
                "seed": seed,
            },
        )
        for name, count, rate, seed in grid
    ]


def make_strict(settings: Any, options: dict[str, Any]) -> Any:
    """Settings of the options given.

    Raises:
        ConfigError: for a value out of range, in one sentence.
    """
    from pydantic import ValidationError

    from pillion.core.strict import first_fault

    try:
        return settings(**options)
    except ConfigError as error:
        cause = error.__cause__
        fault = first_fault(cause) if isinstance(cause, ValidationError) else None
        if fault is None or fault.field not in settings.model_fields:
            raise  # of a probe's own settings, whose names are no options
        option = "lr" if fault.field == "learning_rate" else fault.field.replace("_", "-")
        raise ConfigError(f"--{option} is {fault.value!r}: {fault.message}.") from error


def _show(fitted: list[Any], folder: Path, model: str, as_json: bool) -> None:
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
    which = "" if model == "embedded" else f" --model {shlex.quote(model)}"
    out.print(
        f"Saved in {folder}. Next: "
        f"pillion predict --probe {shlex.quote(str(folder))} --text '...'{which}"
    )


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
