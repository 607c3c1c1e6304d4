"""`pillion report`: one HTML file of result files, or of a probe on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pillion.cli.app import app, out, print_json
from pillion.cli.failures import say_measured_rows, usable
from pillion.cli.options import EngineOptions, Json, Without, takes_options
from pillion.cli.places import check_file
from pillion.cli.rows import RowOptions
from pillion.cli.scoring import scored
from pillion.core.extras import require
from pillion.errors import ConfigError


@app.command()
@takes_options
def report(
    *,
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Result files: of evaluate --out, bench, layers, or a benchmark."),
    ] = None,
    out_file: Annotated[
        Path, typer.Option("--out", help="The HTML file; it needs no network and no other file.")
    ] = Path("report.html"),
    probe: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of a probe to measure on --data.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled texts: Parquet, CSV, JSON Lines, or hf:NAME[:SPLIT]."),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(min=0, help="Texts of each kind to show, behind a click; 0 shows none."),
    ] = 8,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "pillion report",
    how: RowOptions,
    engine: Annotated[EngineOptions, Without("exact")],
    as_json: Json = False,
) -> None:
    """Make one HTML page of results.

    Of result files, of a probe that is measured on labelled data, or of both: tables, reliability,
    ROC and precision-recall curves, the confusion matrix, decisions, costs, and examples behind a
    click. Metrics that the rows leave undefined are printed as undefined.
    """
    from pillion.report.page import read_content, write_report

    if (probe is None) != (data is None):
        raise ConfigError("--probe and --data go together; give both or neither.")
    if not results and probe is None:
        raise ConfigError("Give result files, or a probe with --probe and labelled texts (--data).")
    check_file(out_file, "--out", data, *results or [])
    require("matplotlib", "A page with charts")
    contents = [read_content(path) for path in results or []]
    if probe is not None and data is not None:
        contents.insert(0, _measured(probe, data, how, engine, examples, out_file))
    num_bytes = write_report(contents, out_file, title)
    if as_json:
        sections = [content["name"] for content in contents]
        return print_json({"out": str(out_file), "sections": sections, "bytes": num_bytes})
    parts = "1 section" if len(contents) == 1 else f"{len(contents)} sections"
    out.print(f"{out_file}: {parts}, {num_bytes / 1e3:,.0f} KB.")


def _measured(
    probe: str,
    data: str,
    how: RowOptions,
    engine: EngineOptions,
    num_examples: int,
    out_file: Path,
) -> dict[str, Any]:
    """The content of the result file of a probe on labelled data."""
    from pillion.evals import Labelled, result_of
    from pillion.runtime import resolve

    artefact = resolve(probe)
    labelled = Labelled.of(artefact.card, how.rows(data))
    say_measured_rows(artefact.card, labelled)
    language_model, skip = engine.load(), how.skip_bad_rows
    on_too_long = engine.on_too_long
    labelled = usable(labelled, artefact, language_model.backend, on_too_long, skip, out_file)
    told = scored(language_model, artefact, labelled, engine, "evaluate")
    return result_of(language_model, artefact, labelled, told, on_too_long, num_examples)
