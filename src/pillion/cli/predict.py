"""`pillion predict`: labels for texts, one JSON line a row, in input order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pillion.cli.app import (
    SOURCES,
    AllowMismatch,
    Device,
    Dtype,
    Exact,
    Model,
    Probes,
    TooLong,
    app,
    dtype_of,
    err,
)
from pillion.cli.cluster import RayAddress, RayWorkers, open_crew, show_rates
from pillion.cli.failures import all_failed, check_some_left, finish, write_failed
from pillion.cli.output import check_text, write_lines
from pillion.cli.places import check_file, clear
from pillion.cli.progress import Bar, progress_bar
from pillion.cli.rows import USUAL_TEXTS, TextOptions, takes_rows
from pillion.core import FailedRow, OnTooLong, Scope, Template
from pillion.core.lines import failed_line, json_line
from pillion.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pillion.backends import Backend
    from pillion.cluster import Crew
    from pillion.data import SlicePlan, Texts
    from pillion.scoring import ScoreJob


@app.command()
@takes_rows
def predict(
    probe: Probes,
    text: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A text; repeat it for several.")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(help=f"Texts: {SOURCES}."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the lines to this file instead of printing them.")
    ] = None,
    how: TextOptions = USUAL_TEXTS,
    template: Annotated[
        Template | None,
        typer.Option(help="How a text is wrapped; default: as the (first) probe was trained."),
    ] = None,
    model: Model = "embedded",
    dtype: Dtype = "auto",
    exact: Exact = False,
    device: Device = "auto",
    on_too_long: TooLong = "error",
    allow_mismatch: AllowMismatch = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="First run the probes' canaries: do they say what they said at training?",
        ),
    ] = False,
    no_exit: Annotated[
        bool,
        typer.Option(
            "--no-exit", help="Read every text to the last layer, whatever the probes' exits."
        ),
    ] = False,
    ray: RayAddress = None,
    ray_workers: RayWorkers = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Accepted for symmetry: the output is JSON anyway.")
    ] = False,
) -> None:
    """Label texts, or every text of a file.

    Prints one JSON line a row, in input order: label (a list for a multi-label probe), probs (label
    -> probability) and threshold. Several probes are read in the same pass: their verdicts then
    stand under verdicts, by name, and the first one's at the top. A row that cannot be used has
    null for these and the reason under error; with --out, NAME.failed.jsonl lists such rows. The
    exit code is then 1. With --out, the same command run again finishes what an interrupted one
    left.
    """
    from pillion.runtime import resolve
    from pillion.scoring import ScoreJob

    if out is not None:
        check_file(out, "--out")
    if (not text) == (input is None):
        raise ConfigError("Give either --text or --input, and not both.")
    work, skip, computed = _work(out), how.skip_bad_rows, dtype_of(dtype, exact)
    with ExitStack() as stack:
        with open_crew(ray, ray_workers, model, computed, device) as crew, progress_bar() as bar:
            texts = _given(text) if text else None
            probes = [resolve(folder) for folder in probe]
            chosen = tuple(one.whole if no_exit else one for one in probes)
            job = ScoreJob(chosen, allow_mismatch)
            wrapping = template or job.artefacts[0].card.template
            asked = _Asked(job, texts, input, how, wrapping, on_too_long, work, bar)
            if crew is None:
                done = _here(asked, model, computed, device, check)
            else:
                done = _on_cluster(asked, crew, check, stack)
        write_lines(done.lines, out)
        if out is None or work is None:
            where = "their lines hold the reason under error"
            return finish(done.failed(), done.rows, where, skip)
        side_file = out.with_name(f"{out.stem}.failed.jsonl")
        write_failed(done.failed(), done.rows, side_file)
        try:
            finish(done.failed(), done.rows, f"their reasons are in {side_file}", skip)
        finally:
            clear(work)


@dataclass(frozen=True)
class _Asked:
    """What is wanted, wherever it is done."""

    job: ScoreJob
    texts: Texts | None
    input: str | None
    how: TextOptions
    template: Template
    on_too_long: OnTooLong
    work: Path | None
    bar: Bar

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """What the probes read."""
        return tuple(artefact.card.scope for artefact in self.job.artefacts)


@dataclass(frozen=True)
class _Done:
    """What has become of it.

    Attributes:
        lines: of all rows, in order.
        rows: where each comes from.
        failed: gives the rows that failed, in order.
    """

    lines: Iterable[str]
    rows: Texts | SlicePlan
    failed: Callable[[], Iterable[FailedRow]]


def _here(asked: _Asked, model: str, dtype: str, device: str, check: bool) -> _Done:
    """This process does the work."""
    from pillion.backends import load_backend
    from pillion.extract import encode
    from pillion.runtime import checked
    from pillion.scoring import LineStore, score

    texts = asked.texts
    if texts is None:
        assert asked.input is not None
        texts = asked.how.texts(asked.input)
    backend = load_backend(model, dtype, device)
    if not asked.job.allow_mismatch:  # before any text meets another model's template or window
        for one in asked.job.artefacts:
            checked(backend, one)
    if check:
        _check(backend, asked.job)
    _say_foreign(texts, asked.job)
    encoded = encode(backend, texts.texts, asked.template, asked.on_too_long, asked.scopes)
    failed = all_failed(texts, encoded.failed)
    counts = [num_rows for _, num_rows in texts.files]
    store, rows = LineStore(asked.work), encoded.token_ids
    lines = score(backend, asked.job, rows, store, asked.bar, counts)
    return _Done(_with_failed(lines, failed), texts, lambda: failed)


def _say_foreign(texts: Texts, job: ScoreJob) -> None:
    """Says which share of the texts is in languages or scripts that a probe has hardly learnt."""
    from pillion.data import flat_text, foreign_note

    words = [flat_text(text) for text in texts.texts if text is not None]
    notes = [foreign_note(words, one.card.data.writings, one.name) for one in job.artefacts]
    for note in dict.fromkeys(note for note in notes if note is not None):
        err.print(note)


def _check(backend: Backend, job: ScoreJob) -> None:
    """Returns if the probes say what they said at training; notes on those who cannot tell."""
    from pillion.runtime import LanguageModel, check_canaries

    for found in check_canaries(LanguageModel(backend), job.artefacts, job.allow_mismatch):
        if found.note is not None:
            err.print(found.note)


def _on_cluster(asked: _Asked, crew: Crew, check: bool, stack: ExitStack) -> _Done:
    """The workers of a cluster do the work; no text comes here.

    Args:
        asked: what is wanted.
        crew: who works.
        check: nobody can: each worker has a model of its own.
        stack: holds what is printed until it is.
    """
    from pillion.cluster import ReadAndScore, Tally, plan_on, predict_on
    from pillion.data import hold

    if check:
        raise ConfigError("--check runs the probes on this machine, and --ray on others; drop one.")
    work = asked.work or Path(stack.enter_context(TemporaryDirectory()))
    if asked.texts is not None:
        plan = hold(asked.texts)
    else:
        assert asked.input is not None
        plan = plan_on(crew, asked.input, asked.how.text_column, asked.how.layout, work)
    for note in plan.notes:
        err.print(note)
    tally, job = Tally(), ReadAndScore(asked.job, asked.template, asked.on_too_long, asked.scopes)
    lines = predict_on(crew, plan, job, work, tally, asked.bar)
    show_rates(tally.rates())
    try:
        check_some_left(lines.failed(), plan)
    except DataError:
        clear(work)
        raise
    return _Done(lines, plan, lines.failed)


def _work(out: Path | None) -> Path | None:
    """Where the lines of finished shards are, beside the file, until that is written."""
    return None if out is None else out.absolute().with_name(f".{out.name}.work")


def _with_failed(lines: Sequence[str | None], failed: Sequence[FailedRow]) -> list[str]:
    reasons = {one.row: one.reason for one in failed}
    return [
        json_line(failed_line(reasons[row])) if line is None else line
        for row, line in enumerate(lines, 1)
    ]


def _given(texts: Sequence[str]) -> Texts:
    from pillion.data import Texts

    checked = tuple(check_text(text, "--text") for text in texts)
    return Texts(checked, (), (("--text", len(checked)),), "--text")
