"""`pillion evaluate`: how good a probe is on labelled data."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pillion.cli.app import (
    AllowMismatch,
    Device,
    Dtype,
    Json,
    LabelColumnName,
    Model,
    TextColumnName,
    TooLong,
    app,
    check_too_long,
    out,
    print_json,
    progress_bar,
)


@app.command()
def evaluate(
    probe: Annotated[str, typer.Option(help="Folder of a probe.")],
    data: Annotated[Path, typer.Option(help="Parquet, CSV or JSON Lines: text and label.")],
    text_column: TextColumnName = "text",
    label_column: LabelColumnName = "label",
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
) -> None:
    """Accuracy, F1, AUPRC and more of a probe on labelled data, at the thresholds on its card."""
    from pillion.data import LabelSpace, read_rows
    from pillion.evals import measure
    from pillion.runtime import LanguageModel, resolve

    artefact = resolve(probe)
    rows = read_rows(str(data), text_column, label_column)
    assert rows.labels is not None
    targets = LabelSpace(artefact.card.labels, artefact.card.task).encode(rows.labels)
    language_model = LanguageModel.load(model, dtype, device)
    with progress_bar() as bar:
        verdicts = language_model.score(
            rows.texts,
            [artefact],
            on_too_long=check_too_long(on_too_long),
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
