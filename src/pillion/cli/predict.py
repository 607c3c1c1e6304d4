"""`pillion predict`: labels for texts, one JSON line a row, in input order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pillion.cli.app import app, err
from pillion.cli.cluster import ClusterOptions, open_pool, planned, show_rates
from pillion.cli.failures import all_failed, check_some_left, finish, write_failed
from pillion.cli.options import SOURCES, EngineOptions, Probes, takes_options
from pillion.cli.output import check_text, write_lines
from pillion.cli.places import check_file, clear
from pillion.cli.progress import Bar, progress_bar
from pillion.cli.rows import TextOptions
from pillion.core import FailedRow, Scope, Template
from pillion.core.lines import failed_line, json_line
from pillion.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pillion.backends import Backend
    from pillion.cluster import WorkerPool
    from pillion.data import SlicePlan, Texts
    from pillion.scoring import ScoreJob


@dataclass(frozen=True, kw_only=True)
class AskedOptions:
    """Which texts are labelled, and where the lines go."""

    text: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A text; repeat it for several.")
    ] = None
    input: Annotated[str | None, typer.Option(help=f"Texts: {SOURCES}.")] = None
    out: Annotated[
        Path | None, typer.Option(help="Write the lines to this file instead of printing them.")
    ] = None

    def __post_init__(self) -> None:
        check_file(self.out, "--out", self.input)
        if (not self.text) == (self.input is None):
            got = "both --text and --input" if self.text else "neither --text nor --input"
            raise ConfigError(f"Got {got}; give one of them.")

    @property
    def work(self) -> Path | None:
        """Where the lines of finished shards are, beside the file, until that is written."""
        out = self.out
        return None if out is None else out.absolute().with_name(f".{out.name}.work")


@dataclass(frozen=True, kw_only=True)
class WishOptions:
    """What else is wanted of the probes."""

    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="First run the probes' canaries: do they say what they said at training?",
        ),
    ] = False
    no_exit: Annotated[
        bool,
        typer.Option(
            "--no-exit", help="Read every text to the last layer, whatever the probes' exits."
        ),
    ] = False


@app.command()
@takes_options
def predict(
    *,
    probe: Probes,
    asked: AskedOptions,
    how: TextOptions,
    template: Annotated[
        Template | None,
        typer.Option(help="How a text is wrapped; default: as the probes were trained."),
    ] = None,
    engine: EngineOptions,
    wishes: WishOptions,
    cluster: ClusterOptions,
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
    from pillion.runtime import resolve, shared_template
    from pillion.scoring import ScoreJob

    with ExitStack() as stack:
        with open_pool(cluster, engine) as pool, progress_bar() as bar:
            probes = [resolve(folder) for folder in probe]
            chosen = tuple(one.whole if wishes.no_exit else one for one in probes)
            job = ScoreJob(chosen, engine.allow_mismatch)
            wrapping = template or shared_template(job.artefacts)
            wanted = _Wanted(job, asked, how, wrapping, engine, wishes.check, bar)
            done = _here(wanted) if pool is None else _on_cluster(wanted, pool, stack)
        write_lines(done.lines, asked.out)
        _finish(done, asked, how.skip_bad_rows)


def _finish(done: _Done, asked: AskedOptions, skip: bool) -> None:
    """Says which rows failed, if any; clears what the run kept."""
    if asked.out is None or asked.work is None:
        where = "their lines hold the reason under error"
        return finish(done.failed(), done.rows, where, skip)
    side_file = asked.out.with_name(f"{asked.out.stem}.failed.jsonl")
    write_failed(done.failed(), done.rows, side_file)
    try:
        finish(done.failed(), done.rows, f"their reasons are in {side_file}", skip)
    finally:
        clear(asked.work)


@dataclass(frozen=True)
class _Wanted:
    """What is wanted, wherever it is done."""

    job: ScoreJob
    asked: AskedOptions
    how: TextOptions
    template: Template
    engine: EngineOptions
    check: bool
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


def _here(wanted: _Wanted) -> _Done:
    """This process does the work."""
    from pillion.extract import encode
    from pillion.runtime import checked
    from pillion.scoring import LineStore, score

    job, engine = wanted.job, wanted.engine
    texts = _given(wanted.asked.text) or wanted.how.texts(wanted.asked.input or "")
    backend = engine.load().backend
    if not job.allow_mismatch:  # before any text meets another model's template or window
        for one in job.artefacts:
            checked(backend, one)
    if wanted.check:
        _check(backend, job)
    _say_foreign(texts, job)
    encoded = encode(backend, texts.texts, wanted.template, engine.on_too_long, wanted.scopes)
    failed = all_failed(texts, encoded.failed)
    counts = [num_rows for _, num_rows in texts.files]
    store, rows = LineStore(wanted.asked.work), encoded.token_ids
    lines = score(backend, job, rows, store, wanted.bar, counts)
    return _Done(_with_failed(lines, failed), texts, lambda: failed)


def _say_foreign(texts: Texts, job: ScoreJob) -> None:
    """Says which share of the texts is in languages or scripts that a probe has hardly learnt."""
    from pillion.data import flat_text, foreign_note

    words = [flat_text(text) for text in texts.texts if text is not None]
    notes = [foreign_note(words, one.card.data.writings, one.name) for one in job.artefacts]
    for note in dict.fromkeys(note for note in notes if note is not None):
        err.print(note)


def _check(backend: Backend, job: ScoreJob) -> None:
    """Returns if the probes say what they said at training; notes which ones have no canaries."""
    from pillion.runtime import LanguageModel, check_canaries

    for found in check_canaries(LanguageModel(backend), job.artefacts, job.allow_mismatch):
        if found.note is not None:
            err.print(found.note)


def _on_cluster(wanted: _Wanted, pool: WorkerPool, stack: ExitStack) -> _Done:
    """The workers of a cluster do the work; no text comes here.

    Args:
        wanted: what is wanted; `check` is refused, since each worker has a model of its own.
        pool: of workers.
        stack: holds what is printed until it is.
    """
    from pillion.cluster import ReadAndScore, Tally, predict_on
    from pillion.data import hold

    asked = wanted.asked
    if wanted.check:
        raise ConfigError("--check runs the probes on this machine, and --ray on others; drop one.")
    work = asked.work or Path(stack.enter_context(TemporaryDirectory()))
    texts = _given(asked.text)
    plan = hold(texts) if texts else planned(pool, asked.input or "", wanted.how, work)
    tally, long = Tally(), wanted.engine.on_too_long
    job = ReadAndScore(wanted.job, wanted.template, long, wanted.scopes)
    lines = predict_on(pool, plan, job, work, tally, wanted.bar)
    show_rates(tally.rates())
    try:
        check_some_left(lines.failed(), plan)
    except DataError:
        clear(work)
        raise
    return _Done(lines, plan, lines.failed)


def _with_failed(lines: Sequence[str | None], failed: Sequence[FailedRow]) -> list[str]:
    reasons = {one.row: one.reason for one in failed}
    return [
        json_line(failed_line(reasons[row])) if line is None else line
        for row, line in enumerate(lines, 1)
    ]


def _given(texts: Sequence[str] | None) -> Texts | None:
    """Those of `--text`; None for none."""
    from pillion.data import Texts

    if not texts:
        return None
    checked = tuple(check_text(text, "--text") for text in texts)
    return Texts(checked, (), (("--text", len(checked)),), "--text")
