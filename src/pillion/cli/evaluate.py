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
    Placed,
    TooLong,
    app,
    err,
    json_line,
    out,
    print_json,
    progress_bar,
)
from pillion.cli.failures import usable
from pillion.cli.output import number, write_lines
from pillion.cli.places import check_file
from pillion.cli.rows import USUAL_ROWS, RowOptions, takes_rows

EARLY_TOKENS = 32
"""What `pillion.metrics.running` calls early."""


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
    contexts: Placed = "none",
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
) -> None:
    """Measure a probe on labelled data.

    Prints accuracy, F1, AUPRC and more, at the thresholds of the probe's card. Of a probe of
    responses also how good it is after 16, 32, 64 and 128 tokens, how soon it finds what it is for,
    and how many answers it would stop wrongly.
    """
    from pillion.data import contexts_of
    from pillion.evals import (
        Labelled,
        in_contexts,
        measure,
        measure_running,
        result_of,
        score,
    )
    from pillion.runtime import LanguageModel, resolve

    if out_file is not None:
        check_file(out_file, "--out")
    artefact = resolve(probe)
    before = contexts_of(contexts)
    labelled = Labelled.of(artefact.card, how.rows(data))
    language_model = LanguageModel.load(model, dtype, device)
    skip = how.skip_bad_rows
    labelled = usable(labelled, artefact, language_model.backend, on_too_long, skip, out_file)
    if before is not None:
        card = artefact.card
        labelled = in_contexts(language_model, card, labelled, before, "every", 0, err.print)
    with progress_bar() as bar:
        scored = score(
            language_model,
            artefact,
            labelled,
            on_too_long=on_too_long,
            progress=partial(bar, "evaluate"),
            allow_mismatch=allow_mismatch,
        )
    metrics = measure(artefact.card, scored.verdicts, labelled.targets)
    if out_file is not None:
        found = result_of(language_model, artefact, labelled, scored, on_too_long, examples)
        write_lines([json_line(found)], out_file)
    rows = labelled.rows
    running = None
    if scored.running is not None:
        running = measure_running(artefact.card, scored.running, labelled.targets)
    _show({**metrics, "rows": len(rows), "data_sha256": rows.sha256}, running, as_json)


def _show(numbers: dict[str, Any], running: dict[str, Any] | None, as_json: bool) -> None:
    if as_json:
        return print_json(numbers if running is None else {**numbers, "running": running})
    for name, value in numbers.items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        shown = number(None, name) if value is None else shown
        out.print(f"{name:<16} {shown}")
    if running is not None:
        _show_running(running)


def _show_running(running: dict[str, Any]) -> None:
    for line in running["after"]:
        when = "the end" if line["tokens"] is None else f"{line['tokens']} tokens"
        auprc, auroc = number(line["auprc"], "auprc"), number(line["auroc"], "auroc")
        out.print(f"after {when:<10} AUPRC {auprc}, AUROC {auroc} ({line['rows']} so long)")
    for stop in running["stops"]:
        rates = ("false_stops", "found", "found_early", "tokens_until_found")
        false_stops, found, early, tokens = (number(stop[name], name) for name in rates)
        out.print(
            f"stop at {stop['label']} {stop['threshold']:.4f}: false stops {false_stops} an "
            f"answer, found {found}, within {EARLY_TOKENS} tokens {early}, tokens until found "
            f"{tokens}"
        )
