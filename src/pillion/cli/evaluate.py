"""`pillion evaluate`: how good a probe is on labelled data."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from pillion.cli.app import (
    SOURCES,
    AllowMismatch,
    Device,
    Dtype,
    Json,
    LabelColumnName,
    Model,
    TextColumnName,
    TooLong,
    app,
    out,
    print_json,
    progress_bar,
)


@app.command()
def evaluate(
    probe: Annotated[str, typer.Option(help="Folder of a trained probe.")],
    data: Annotated[
        str,
        typer.Option(help=f"Labelled texts: {SOURCES}."),
    ],
    text_column: TextColumnName = "text",
    label_column: LabelColumnName = "label",
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
) -> None:
    """Measure a probe on labelled data.

    Prints accuracy, F1, AUPRC and more, at the thresholds that were chosen in training.
    """
    from pillion.data import LabelSpace, read_rows
    from pillion.evals import measure
    from pillion.runtime import LanguageModel, resolve

    artefact = resolve(probe)
    rows = read_rows(data, text_column, label_column)
    assert rows.labels is not None
    targets = LabelSpace(artefact.card.labels, artefact.card.task).encode(rows.labels)
    language_model = LanguageModel.load(model, dtype, device)
    with progress_bar() as bar:
        verdicts = language_model.score(
            rows.texts,
            [artefact],
            on_too_long=on_too_long,
            progress=partial(bar, "evaluate"),
            allow_mismatch=allow_mismatch,
        )
    metrics = measure(artefact.card, [row[artefact.name] for row in verdicts], targets)
    _show({**metrics, "rows": len(rows.texts), "data_sha256": rows.sha256}, as_json)


def _show(numbers: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(numbers)
    for name, value in numbers.items():
        shown = (
            "undefined" if value is None else f"{value:.4f}" if isinstance(value, float) else value
        )
        out.print(f"{name:<16} {shown}")
