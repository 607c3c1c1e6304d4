"""`pillion evaluate`: how good a probe is on labelled data."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size

from pillion.cli.app import app, err, json_line, out, print_json
from pillion.cli.failures import say_measured_rows, usable
from pillion.cli.options import SOURCES, EngineOptions, Json, Placed, takes_options
from pillion.cli.output import number, write_lines
from pillion.cli.places import check_file
from pillion.cli.rows import RowOptions
from pillion.cli.scoring import scored
from pillion.core import defaults
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.evals import Labelled, Scored
    from pillion.probe import Artefact
    from pillion.runtime import LanguageModel

EARLY_TOKENS = 32
"""What `pillion.metrics.running` calls early."""
RATES = ("precision", "recall", "f1")
MAX_LABELS = 20
"""Labels whose lines are printed."""


@app.command()
@takes_options
def evaluate(
    *,
    probe: Annotated[str, typer.Option(help="Folder of a trained probe.")],
    data: Annotated[str, typer.Option(help=f"Labelled texts: {SOURCES}.")],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="Result file with all predictions, for pillion report."),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(min=0, help="Texts of each kind that --out keeps for the report; 0: none."),
    ] = 0,
    how: RowOptions,
    contexts: Placed = defaults.CONTEXTS,
    engine: EngineOptions,
    as_json: Json = False,
) -> None:
    """Measure a probe on labelled data.

    Prints accuracy, F1, AUPRC and more, and precision, recall and F1 of each label with intervals,
    at the thresholds of the probe's card. Of a probe of responses also how good it is after 16, 32,
    64 and 128 tokens, how soon it finds what it is for, and how many answers it would stop wrongly.
    """
    from pillion.evals import by_label, measure, measure_running, probs_of, result_of

    check_file(out_file, "--out", data)
    if examples and out_file is None:
        raise ConfigError("--examples are texts that --out keeps; give --out FILE, too.")
    model, artefact, labelled, told = _measured(probe, data, out_file, how, contexts, engine)
    card, targets = artefact.card, labelled.targets
    metrics = measure(card, told.verdicts, targets)
    if out_file is not None:
        long = engine.on_too_long
        found = result_of(model, artefact, labelled, told, long, examples)
        write_lines([json_line(found)], out_file)
    by_token = told.running
    running = None if by_token is None else measure_running(card, by_token, targets)
    share = sum(bool(one.abstained) for one in told.verdicts) / len(labelled.rows)
    labels = by_label(card, probs_of(card, told.verdicts), targets)
    facts = {"rows": len(labelled.rows), "undecided": share, "data_sha256": labelled.rows.sha256}
    numbers = metrics | facts
    if as_json:
        more = {"labels": labels} | ({} if running is None else {"running": running})
        return print_json(numbers | more | {"notes": card.data.notes})
    _show(numbers, labels, running)
    _show_notes(card.data.notes)
    again = ["--probe", probe, "--data", data, *how.words(), *engine.words()]
    _show_next(out_file, None if contexts != defaults.CONTEXTS else again)


def _measured(
    probe: str,
    data: str,
    out_file: Path | None,
    how: RowOptions,
    contexts: str,
    engine: EngineOptions,
) -> tuple[LanguageModel, Artefact, Labelled, Scored]:
    """The model, the probe, its rows and what it says of them."""
    from pillion.data import contexts_of
    from pillion.evals import Labelled, in_contexts
    from pillion.runtime import resolve

    artefact = resolve(probe)
    card, before = artefact.card, contexts_of(contexts)
    labelled = Labelled.of(card, how.rows(data))
    say_measured_rows(card, labelled)
    model, long = engine.load(), engine.on_too_long
    labelled = usable(labelled, artefact, model.backend, long, how.skip_bad_rows, out_file)
    if before is not None:
        labelled = in_contexts(model, card, labelled, before, "every", 0, err.print)
    return model, artefact, labelled, scored(model, artefact, labelled, engine, "evaluate")


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


def _show_next(out_file: Path | None, again: Sequence[str] | None) -> None:
    """A command that shows these numbers on a page; `again` measures them, None if none does."""
    what = "Next, a page of curves and mistakes:"
    if out_file is None and again is None:  # report puts no rows behind contexts
        return out.print(f"{what} this command with --out FILE, then pillion report FILE")
    words = ["report", *([str(out_file)] if out_file is not None else again or ())]
    out.print(f"{what} pillion {shlex.join(words)} --out report.html")


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
