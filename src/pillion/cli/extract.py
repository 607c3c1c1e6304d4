"""`pillion extract`: hidden states of texts, kept on disk for any number of trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pillion.cli.app import (
    Device,
    Dtype,
    Json,
    Layers,
    Model,
    TextColumnName,
    TooLong,
    Wrapping,
    app,
    err,
    out,
    print_json,
    progress_bar,
)
from pillion.cli.layers import parse_layers
from pillion.cli.places import check_folder


@app.command()
def extract(
    data: Annotated[
        str, typer.Option(help="Texts: a Parquet, CSV or JSON Lines file, or hf:NAME[:SPLIT].")
    ],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the states; give it to train as --cache.")
    ],
    text_column: TextColumnName = "text",
    layers: Layers = None,
    template: Wrapping = "chat",
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    as_json: Json = False,
) -> None:
    """Keep the hidden states of texts on disk.

    For several trainings on the same rows: each takes the folder as --cache. The same command run
    again finishes what an interrupted one left.
    """
    from pillion.data import read_rows
    from pillion.fit import FitSettings, cached_states
    from pillion.runtime import LanguageModel, encode_rows

    check_folder(out_folder, "--out")
    rows = read_rows(data, text_column, None)
    language_model = LanguageModel.load(model, dtype, device)
    num_layers = language_model.backend.identity.num_layers
    settings = FitSettings(template, parse_layers(layers, num_layers), on_too_long)
    tokens = encode_rows(language_model.backend, rows.texts, template, on_too_long)
    with progress_bar() as bar:
        source = cached_states(
            language_model, tokens, out_folder / "train", settings, bar, say=err.print
        )
        source.reader.close()
    spec = source.reader.spec
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
