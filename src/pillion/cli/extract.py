"""`pillion extract`: hidden states of texts, kept on disk for any number of trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pillion.cli.app import (
    Device,
    Dtype,
    Json,
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


@app.command()
def extract(
    data: Annotated[str, typer.Option(help="Parquet, CSV, JSON Lines, or hf:NAME.")],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the cache; `train --cache` takes it.")
    ],
    text_column: TextColumnName = "text",
    layers: Annotated[
        str | None, typer.Option(help="Such as 0-15 or 0,4,8; all by default.")
    ] = None,
    template: Annotated[str, typer.Option(help="raw or chat.")] = "chat",
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    as_json: Json = False,
) -> None:
    """Fill a cache of hidden states; run again, it finishes what an interrupted run left."""
    from pillion.data import read_rows
    from pillion.fit import FitSettings, cached_states
    from pillion.runtime import LanguageModel, encode_rows

    rows = read_rows(data, text_column, None)
    language_model = LanguageModel.load(model, dtype, device)
    settings = FitSettings(
        template=check_template(template) or "chat",
        layers=parse_layers(layers, language_model.backend.identity.num_layers),
        on_too_long=check_too_long(on_too_long),
    )
    tokens = encode_rows(
        language_model.backend, rows.texts, settings.template, settings.on_too_long
    )
    with progress_bar() as bar:
        spec = cached_states(
            language_model, tokens, out_folder / "train", settings, bar, say=err.print
        ).reader.spec
    facts = {
        "out": str(out_folder),
        "rows": len(spec.lengths),
        "tokens": sum(spec.lengths),
        "layers": list(spec.layers),
        "dtype": spec.dtype,
        "bytes": spec.num_bytes,
    }
    if as_json:
        return print_json(facts)
    out.print(f"{facts['rows']:,} rows in {out_folder}, {spec.num_bytes / 1e9:.2f} GB.")
