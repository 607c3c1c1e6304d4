"""`pillion predict`: labels for texts, one JSON line a row, in input order."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pillion.cli.app import (
    AllowMismatch,
    Device,
    Dtype,
    Model,
    Probes,
    TextColumnName,
    TooLong,
    app,
    check_template,
    check_too_long,
    progress_bar,
)
from pillion.cli.output import as_line, write_lines
from pillion.errors import ConfigError


@app.command()
def predict(
    probe: Probes,
    text: Annotated[str | None, typer.Option(help="One text.")] = None,
    input: Annotated[
        Path | None, typer.Option(help="Parquet, CSV or JSON Lines with a text column.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write here instead of printing.")] = None,
    text_column: TextColumnName = "text",
    template: Annotated[
        str | None, typer.Option(help="raw or chat; by default as the probe was trained.")
    ] = None,
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    allow_mismatch: AllowMismatch = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines; so it is anyway.")] = True,
) -> None:
    """Label texts: one JSON line a row with `label` and `probs`; several probes in one pass."""
    from pillion.data import read_rows
    from pillion.runtime import LanguageModel, resolve

    if (text is None) == (input is None):
        raise ConfigError("Give either --text or --input, and not both.")
    texts = [text] if text is not None else list(read_rows(str(input), text_column, None).texts)
    artefacts = [resolve(folder) for folder in probe]
    language_model = LanguageModel.load(model, dtype, device)
    with progress_bar() as bar:
        rows = language_model.score(
            texts,
            artefacts,
            template=check_template(template),
            on_too_long=check_too_long(on_too_long),
            progress=partial(bar, "predict"),
            allow_mismatch=allow_mismatch,
        )
    multilabel = {a.name for a in artefacts if a.card.task == "multilabel"}
    write_lines([json.dumps(as_line(row, multilabel), ensure_ascii=False) for row in rows], out)
