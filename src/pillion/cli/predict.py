"""`pillion predict`: labels for texts, one JSON line a row, in input order."""

from __future__ import annotations

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
    json_line,
    progress_bar,
)
from pillion.cli.output import as_line, check_text, write_lines
from pillion.cli.places import check_file
from pillion.core import Template
from pillion.errors import ConfigError


@app.command()
def predict(
    probe: Probes,
    text: Annotated[str | None, typer.Option(help="One text.")] = None,
    input: Annotated[
        str | None,
        typer.Option(help="Texts: a Parquet, CSV or JSON Lines file, or hf:NAME[:SPLIT]."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the lines to this file instead of printing them.")
    ] = None,
    text_column: TextColumnName = "text",
    template: Annotated[
        Template | None,
        typer.Option(help="How a text is wrapped; default: as the (first) probe was trained."),
    ] = None,
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    allow_mismatch: AllowMismatch = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Accepted for symmetry: the output is JSON anyway.")
    ] = False,
) -> None:
    """Label one text, or every text of a file.

    Prints one JSON line a row, in input order: label (a list for a multi-label probe), probs (label
    -> probability) and threshold. Several probes are read in the same pass: their verdicts then
    stand under verdicts, by name, and the first one's at the top.
    """
    from pillion.runtime import LanguageModel, resolve

    if out is not None:
        check_file(out, "--out")
    texts = _texts(text, input, text_column)
    artefacts = [resolve(folder) for folder in probe]
    language_model = LanguageModel.load(model, dtype, device)
    with progress_bar() as bar:
        rows = language_model.score(
            texts,
            artefacts,
            template=template,
            on_too_long=on_too_long,
            progress=partial(bar, "predict"),
            allow_mismatch=allow_mismatch,
        )
    multilabel = {a.name for a in artefacts if a.card.task == "multilabel"}
    write_lines([json_line(as_line(row, multilabel)) for row in rows], out)


def _texts(text: str | None, source: str | None, column: str) -> tuple[str, ...]:
    from pillion.data import read_rows

    if (text is None) == (source is None):
        raise ConfigError("Give either --text or --input, and not both.")
    if text is not None:
        return (check_text(text, "--text"),)
    assert source is not None
    return read_rows(source, column, None).texts
