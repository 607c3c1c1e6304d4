"""`pillion evaluate`: how good a probe is on labelled data."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size

from pillion.cli.app import (
    SOURCES,
    AllowMismatch,
    Device,
    Dtype,
    Exact,
    Json,
    Model,
    Placed,
    TooLong,
    app,
    dtype_of,
    err,
    json_line,
    out,
    print_json,
)
from pillion.cli.failures import say_own_rows, usable
from pillion.cli.output import number, write_lines
from pillion.cli.places import check_file
from pillion.cli.progress import progress_bar
from pillion.cli.rows import USUAL_ROWS, RowOptions, takes_rows

EARLY_TOKENS = 32
"""What `pillion.metrics.running` calls early."""
RATES = ("precision", "recall", "f1")
MAX_LABELS = 20
"""Labels whose lines are printed."""


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
    exact: Exact = False,
    device: Device = "auto",
    on_too_long: TooLong = "error",
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
) -> None:
    """Measure a probe on labelled data.

    Prints accuracy, F1, AUPRC and more, and precision, recall and F1 of each label with intervals,
    at the thresholds of the probe's card. Of a probe of responses also how good it is after 16, 32,
    64 and 128 tokens, how soon it finds what it is for, and how many answers it would stop wrongly.
    """
    from pillion.data import contexts_of
    from pillion.evals import (
        Labelled,
        by_label,
        in_contexts,
        measure,
        measure_running,
        probs_of,
        result_of,
        score,
    )
    from pillion.runtime import LanguageModel, resolve

    if out_file is not None:
        check_file(out_file, "--out")
    artefact = resolve(probe)
    before = contexts_of(contexts)
    labelled = Labelled.of(artefact.card, how.rows(data))
    say_own_rows(artefact.card, labelled)
    language_model = LanguageModel.load(model, dtype_of(dtype, exact), device)
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
    share = sum(bool(one.abstained) for one in scored.verdicts) / len(rows)
    labels = by_label(artefact.card, probs_of(artefact.card, scored.verdicts), labelled.targets)
    numbers = {**metrics, "rows": len(rows), "undecided": share, "data_sha256": rows.sha256}
    if as_json:
        more = {"labels": labels} | ({} if running is None else {"running": running})
        return print_json(numbers | more | {"notes": artefact.card.data.notes})
    _show(numbers, labels, running)
    _show_notes(artefact.card.data.notes)
    _show_next(out_file, ["--probe", probe, "--data", data, *how.words(), *_engine(model)])


def _show(
    numbers: dict[str, Any], labels: list[dict[str, Any]], running: dict[str, Any] | None
) -> None:
    for name, value in numbers.items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        shown = number(None, name) if value is None else shown
        out.print(f"{name:<16} {shown}")
    if numbers["undecided"]:
        out.print("metrics are of all rows, by the label that each would have if decided")
    _show_labels(labels)
    if running is not None:
        _show_running(running)


def _show_labels(labels: list[dict[str, Any]]) -> None:
    """A line a label; of many those with the lowest F1."""
    out.print(
        f"\n{'label':<16} {'rows':>7}  " + "  ".join(f"{rate:<16}" for rate in RATES).rstrip()
    )
    order = sorted(labels, key=_f1) if len(labels) > MAX_LABELS else labels
    for line in order[:MAX_LABELS]:
        cells = "  ".join(f"{_rate(line, rate):<16}" for rate in RATES)
        out.print(f"{_fitted(line['label'])} {line['rows']:>7,}  {cells}".rstrip())
    if len(labels) > MAX_LABELS:
        out.print(f"... and {len(labels) - MAX_LABELS} more of higher F1 (--json has all)")
    out.print("95 % intervals\n")


def _f1(line: dict[str, Any]) -> float:
    return math.inf if line["f1"] is None else line["f1"]


def _rate(line: dict[str, Any], rate: str) -> str:
    value, around = line[rate], line[f"{rate}_interval"]
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" {around[0]:.2f}-{around[1]:.2f}" if around else "")


def _fitted(label: str) -> str:
    """The label in sixteen columns of the terminal, cut with an ellipsis."""
    cut = set_cell_size(label, 15) + "…" if cell_len(label) > 16 else set_cell_size(label, 16)
    return " ".join(cut.split("\n"))


def _show_notes(notes: Sequence[str]) -> None:
    """What training noted of its rows, which bears on what the numbers mean."""
    if notes:
        out.print("Of the training rows its card says:")
        for note in notes:
            out.print(f"- {note}")
        out.print("")


def _engine(model: str) -> list[str]:
    return [] if model == "embedded" else ["--model", model]


def _show_next(out_file: Path | None, again: Sequence[str]) -> None:
    words = ["report", *(again if out_file is None else [str(out_file)])]
    out.print(f"Next, a page of curves and mistakes: pillion {shlex.join(words)} --out report.html")


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
    out.print("")
