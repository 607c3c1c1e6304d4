"""`pillion evaluate`: how good a probe is on labelled data."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pillion.cli.app import (
    SOURCES,
    AllowMismatch,
    Device,
    Dtype,
    Json,
    Model,
    TooLong,
    app,
    json_line,
    out,
    print_json,
    progress_bar,
)
from pillion.cli.failures import usable
from pillion.cli.output import number, write_lines
from pillion.cli.places import check_file
from pillion.cli.rows import USUAL_ROWS, RowOptions, takes_rows


@app.command()
@takes_rows
def evaluate(
    probe: Annotated[str, typer.Option(help="Folder of a trained probe.")],
    data: Annotated[
        str,
        typer.Option(help=f"Labelled texts: {SOURCES}."),
    ],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="Result file with all predictions, for pillion report."),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(min=0, help="Texts of each kind that --out keeps for the report; 0: none."),
    ] = 0,
    how: RowOptions = USUAL_ROWS,
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
    from pillion.evals import Labelled, measure, result_of, score_rows
    from pillion.runtime import LanguageModel, resolve

    if out_file is not None:
        check_file(out_file, "--out")
    artefact = resolve(probe)
    labelled = Labelled.of(artefact.card, how.rows(data))
    language_model = LanguageModel.load(model, dtype, device)
    skip = how.skip_bad_rows
    labelled = usable(labelled, artefact, language_model.backend, on_too_long, skip, out_file)
    with progress_bar() as bar:
        verdicts = score_rows(
            language_model,
            artefact,
            labelled,
            on_too_long=on_too_long,
            progress=partial(bar, "evaluate"),
            allow_mismatch=allow_mismatch,
        )
    metrics = measure(artefact.card, verdicts, labelled.targets)
    if out_file is not None:
        found = result_of(language_model, artefact, labelled, verdicts, on_too_long, examples)
        write_lines([json_line(found)], out_file)
    rows = labelled.rows
    _show({**metrics, "rows": len(rows), "data_sha256": rows.sha256}, as_json)


def _show(numbers: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(numbers)
    for name, value in numbers.items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        shown = number(None, name) if value is None else shown
        out.print(f"{name:<16} {shown}")
