"""`pillion train`: a probe from labelled texts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

from pillion.cli.app import (
    Device,
    Dtype,
    Json,
    LabelColumnName,
    Model,
    TextColumnName,
    TooLong,
    app,
    check_template,
    check_too_long,
    err,
    out,
    print_json,
    progress_bar,
)
from pillion.cli.layers import parse_layers
from pillion.errors import ConfigError


@app.command()
def train(
    data: Annotated[str, typer.Option(help="Parquet, CSV, JSON Lines, or hf:NAME.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the probe.")],
    validation: Annotated[
        str | None, typer.Option(help="Rows that choose epoch and threshold; else a tenth of data.")
    ] = None,
    text_column: TextColumnName = "text",
    label_column: LabelColumnName = "label",
    probe: Annotated[
        list[str] | None, typer.Option(help="gate, gate-paper, mha, mha-causal, pooling, ...")
    ] = None,
    heads: Annotated[
        list[int] | None, typer.Option(help="Heads (K); may be repeated, like --lr and --seed.")
    ] = None,
    lr: Annotated[list[float] | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of the weights.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows, at most 10.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step.")] = None,
    balanced: Annotated[bool, typer.Option(help="Every label counts the same.")] = False,
    positive: Annotated[str | None, typer.Option(help="Which of two labels is positive.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="Such as 0-15 or 0,4,8; all by default.")
    ] = None,
    template: Annotated[str, typer.Option(help="raw or chat.")] = "chat",
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    cache: Annotated[
        Path | None, typer.Option(help="Keep hidden states here, for the next training.")
    ] = None,
    live: Annotated[
        bool, typer.Option(help="Keep no states on disk: run the model in every epoch.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train probes on the frozen model; of several, the best on validation is kept."""
    from pillion.data import read_rows
    from pillion.fit import FitSettings, clear, fit
    from pillion.runtime import LanguageModel
    from pillion.train import TrainSettings

    configs = _configs(probe or ["gate"], heads, lr, seed)
    rows = read_rows(data, text_column, label_column)
    held = read_rows(validation, text_column, label_column) if validation else None
    given = {"epochs": epochs, "batch_size": batch_size}
    shared: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    shared["class_weights"] = "balanced" if balanced else "none"
    language_model = LanguageModel.load(model, dtype, device)
    settings = FitSettings(
        template=check_template(template) or "chat",
        layers=parse_layers(layers, language_model.backend.identity.num_layers),
        on_too_long=check_too_long(on_too_long),
        positive=positive,
        live=live,
        train=make_train_settings(TrainSettings, shared),
    )
    work = cache or out_folder.with_name(f".{out_folder.name}.work")
    with progress_bar() as bar:
        fitted = fit(language_model, rows, held, configs, work, settings, bar, say=err.print)
    fitted[0].artefact.save(out_folder)
    if cache is None:
        clear(work)
    _show(fitted, out_folder, as_json)


def _configs(
    probes: list[str], heads: list[int] | None, rates: list[float] | None, seeds: list[int] | None
) -> list[Any]:
    """Every combination of what was given."""
    from pillion.train import ProbeConfig

    grid = itertools.product(probes, heads or [None], rates or [None], seeds or [0])
    return [
        ProbeConfig(
            probe=name,
            settings={} if count is None else {"num_heads": count},
            learning_rate=rate,
            seed=seed,
        )
        for name, count, rate, seed in grid
    ]


def make_train_settings(settings: Any, options: dict[str, Any]) -> Any:
    """Settings of the options given.

    Raises:
        ConfigError: for a value out of range, in one sentence.
    """
    from pydantic import ValidationError

    try:
        return settings(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{name} is {first['input']!r}: {first['msg']}.") from error


def _show(fitted: list[Any], folder: Path, as_json: bool) -> None:
    runs = [
        {
            "probe": one.trained.config.probe,
            "settings": one.trained.config.settings,
            "learning_rate": one.trained.config.rate,
            "seed": one.trained.config.seed,
            "best_epoch": one.trained.best_epoch,
            "parameters": one.artefact.network.num_parameters,
            "thresholds": one.artefact.card.thresholds,
            "validation": one.artefact.card.metrics,
        }
        for one in fitted
    ]
    if as_json:
        return print_json({"out": str(folder), **runs[0], "runs": runs})
    for run in runs:
        numbers = {k: v for k, v in run["validation"].items() if v is not None}
        shown = "  ".join(
            f"{k} {numbers[k]:.3f}" for k in ("accuracy", "f1", "auprc") if k in numbers
        )
        out.print(
            f"{run['probe']:<12} lr {run['learning_rate']:g}  seed {run['seed']}  "
            f"epoch {run['best_epoch']}  validation: {shown}"
        )
    out.print(f"Saved in {folder}. Next: pillion predict --probe {folder} --text '...'")
