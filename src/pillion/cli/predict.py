"""`pillion predict`: labels for texts, one JSON line a row, in input order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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
from pillion.cli.failures import all_failed, finish, write_failed
from pillion.cli.output import check_text, write_lines
from pillion.cli.places import check_file, clear
from pillion.cli.progress import Bar, progress_bar
from pillion.cli.rows import USUAL_TEXTS, TextOptions, takes_rows
from pillion.core import FailedRow, OnTooLong, Scope, Template, Text
from pillion.core.lines import failed_line, json_line
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.cluster import Crew
    from pillion.data import Texts
    from pillion.extract import Encoded
    from pillion.scoring import LineStore, ScoreJob


@app.command()
@takes_rows
def predict(
    probe: Probes,
    text: Annotated[list[str] | None, typer.Option(help="A text; repeat it for several.")] = None,
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
    from pillion.scoring import LineStore, ScoreJob

    if out is not None:
        check_file(out, "--out")
    work, skip = _work(out), how.skip_bad_rows
    computed = dtype_of(dtype, exact)
    with open_crew(ray, ray_workers, model, computed, device) as crew, progress_bar() as bar:
        texts = _texts(text, input, how)
        probes = [resolve(folder) for folder in probe]
        job = ScoreJob(tuple(one.whole if no_exit else one for one in probes), allow_mismatch)
        engine = _Here(model, computed, device) if crew is None else _OnCluster(crew)
        if check:
            engine.check(job)
        wrapping = template or job.artefacts[0].card.template
        scopes: list[Scope] = [artefact.card.scope for artefact in job.artefacts]
        encoded = engine.encode(texts.texts, wrapping, on_too_long, scopes, bar)
        failed = all_failed(texts, encoded.failed)
        lines = engine.score(job, encoded, LineStore(work), bar)
    write_lines(_with_failed(lines, failed), out)
    if out is None or work is None:
        return finish(failed, texts, "their lines hold the reason under error", skip)
    clear(work)
    side_file = out.with_name(f"{out.stem}.failed.jsonl")
    write_failed(failed, texts, side_file)
    finish(failed, texts, f"their reasons are in {side_file}", skip)


class _Here:
    """This process does the work."""

    def __init__(self, model: str, dtype: str, device: str) -> None:
        from pillion.backends import load_backend

        self.backend = load_backend(model, dtype, device)

    def check(self, job: ScoreJob) -> None:
        """Returns if the probes say what they said at training; notes on those who cannot tell."""
        from pillion.runtime import LanguageModel, check_canaries

        model = LanguageModel(self.backend)
        for found in check_canaries(model, job.artefacts, job.allow_mismatch):
            if found.note is not None:
                err.print(found.note)

    def encode(
        self,
        texts: Sequence[Text | None],
        template: Template,
        on_too_long: OnTooLong,
        scopes: Sequence[Scope],
        _: Bar,
    ) -> Encoded:
        from pillion.extract import encode

        return encode(self.backend, texts, template, on_too_long, scopes)

    def score(
        self, job: ScoreJob, encoded: Encoded, store: LineStore, bar: Bar
    ) -> list[str | None]:
        from pillion.scoring import score, score_here

        run = score_here(self.backend)
        return score(run, job, encoded.identity, encoded.token_ids, store, bar)


class _OnCluster:
    """The workers of a cluster do the work."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew

    def check(self, job: ScoreJob) -> None:
        """Nobody can: each worker has a model of its own."""
        raise ConfigError("--check runs the probes on this machine, and --ray on others; drop one.")

    def encode(
        self,
        texts: Sequence[Text | None],
        template: Template,
        on_too_long: OnTooLong,
        scopes: Sequence[Scope],
        bar: Bar,
    ) -> Encoded:
        from pillion.cluster import encode_on

        return encode_on(self.crew, texts, template, on_too_long, bar, scopes)

    def score(
        self, job: ScoreJob, encoded: Encoded, store: LineStore, bar: Bar
    ) -> list[str | None]:
        from pillion.cluster import Tally, score_on
        from pillion.scoring import score

        # What a worker warns of stays there.
        for artefact in job.artefacts:
            artefact.check(encoded.identity, job.allow_mismatch)
        tally = Tally()
        run = score_on(self.crew, tally)
        lines = score(run, job, encoded.identity, encoded.token_ids, store, bar)
        show_rates(tally.rates())
        return lines


def _work(out: Path | None) -> Path | None:
    """Where the lines of finished shards are, beside the file, until that is written."""
    return None if out is None else out.absolute().with_name(f".{out.name}.work")


def _with_failed(lines: Sequence[str | None], failed: Sequence[FailedRow]) -> list[str]:
    reasons = {one.row: one.reason for one in failed}
    return [
        json_line(failed_line(reasons[row])) if line is None else line
        for row, line in enumerate(lines, 1)
    ]


def _texts(given: Sequence[str] | None, source: str | None, how: TextOptions) -> Texts:
    from pillion.data import Texts

    if (not given) == (source is None):
        raise ConfigError("Give either --text or --input, and not both.")
    if given:
        texts = tuple(check_text(text, "--text") for text in given)
        return Texts(texts, (), (("--text", len(texts)),), "--text")
    assert source is not None
    return how.texts(source)
