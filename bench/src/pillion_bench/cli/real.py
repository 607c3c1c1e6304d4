"""`pillion bench real`: what has a probe learnt? One study, one result file, one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pillion.cli.app import err, json_line, out, print_json
from pillion.cli.bench import bench
from pillion.cli.failures import fitting, say_left_out
from pillion.cli.layers import parse_layers
from pillion.cli.options import EngineOptions, Json, Layers, Without, Wrapping, takes_options
from pillion.cli.output import write_lines
from pillion.cli.places import check_file, check_folder, kept_if_unsaved, work_folder
from pillion.cli.progress import progress_bar
from pillion.cli.rows import RowOptions
from pillion.core import FailedRow, OnTooLong, Scope, Template, defaults
from pillion.core.extras import require
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.data import Rows
    from pillion.train import ProbeConfig
    from pillion_bench.real.settings import RealSettings


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What is studied, and how large."""

    other: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE[:COLUMN]",
            help="Labelled texts of another source; repeat it. COLUMN names kinds that are "
            "counted apart.",
        ),
    ] = None
    kind: Annotated[
        str, typer.Option("--kind", "--probe", metavar="NAME", help="Kind of probe.")
    ] = defaults.KIND
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="muli, tfidf, length or embeddings; repeat it; default: the first three.",
        ),
    ] = None
    sample: Annotated[
        int, typer.Option(min=0, help="Rows of every change of wording; 0: none.")
    ] = 200
    needles: Annotated[
        int, typer.Option(min=0, help="Texts hidden in long benign ones; 0: none.")
    ] = 30
    words: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=20, help="Length of the long texts; repeat it; default: 100, 300, 900."
        ),
    ] = None
    curves: Annotated[
        int, typer.Option(min=0, max=10, help="Draws of the learning curves; 0: none.")
    ] = 2
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the draws and weights.")] = 0
    positive: Annotated[
        str | None, typer.Option(help="Which of two labels is positive; default: by their names.")
    ] = None
    layers: Layers = None
    template: Wrapping = None
    scope: Annotated[
        Scope | None,
        typer.Option(
            help="Whose words are read, by probes and by methods of texts; default: the last "
            "user's turn, the answer of answered prompts, all of raw texts."
        ),
    ] = None
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep hidden states of train and test here, as train --cache does."),
    ] = None

    def settings(
        self, template: Template, scope: Scope, num_layers: int, on_too_long: OnTooLong
    ) -> RealSettings:
        """Those of the study.

        Args:
            template: how texts are wrapped, where the model had a word in it.
            scope: whose words are read, where the rows had one.
            num_layers: of the model.
            on_too_long: what happens to a text beyond the context window.

        Raises:
            ConfigError: a probe, layer or baseline that is not known.
        """
        from pillion_bench.real.settings import RealSettings

        return RealSettings(
            config=self.config(),
            template=template,
            scope=scope,
            layers=parse_layers(self.layers, num_layers),
            on_too_long=on_too_long,
            positive=self.positive,
            baselines=_baselines(self.baseline),
            sample=self.sample,
            needles=self.needles,
            words=tuple(self.words or RealSettings().words),
            curve_seeds=self.curves,
            seed=self.seed,
            cache=self.cache,
        )

    def config(self) -> ProbeConfig:
        """Of the probe that is studied."""
        from pillion.train import ProbeConfig

        return ProbeConfig(probe=self.kind, seed=self.seed)


@bench.command()
@takes_options
def real(
    *,
    train: Annotated[str, typer.Option(help="Labelled texts to learn from.")],
    test: Annotated[str, typer.Option(help="Labelled texts of the same source.")],
    out_file: Annotated[Path, typer.Option("--out", help="Result file (JSON).")],
    page: Annotated[
        Path | None, typer.Option(help="HTML page of the result; default: beside --out.")
    ] = None,
    asked: StudyOptions,
    how: RowOptions,
    engine: Annotated[EngineOptions, Without("exact", "allow_mismatch")],
    as_json: Json = False,
) -> None:
    """Find out what a probe owes to chance, length, duplicates and wording.

    Trains the probe, the same on shuffled labels and on few rows, and asks it and baselines that
    learnt from the same rows about the test, other sources, the same texts written otherwise, and
    short texts inside long ones. Stopped by Ctrl-C, the same command goes on where it was.
    """
    from pillion.fit import default_scope
    from pillion.report.page import write_report
    from pillion.runtime import usual_template
    from pillion_bench.real.study import study

    shown = page or out_file.with_suffix(".html")
    if shown == out_file:
        raise ConfigError(f"--out {out_file} is where the page goes, too; give --page.")
    read = (train, test, *(one.partition("=")[2] for one in asked.other or ()))
    check_file(out_file, "--out", *read)
    check_file(shown, "--page", *read)
    require("matplotlib", "A page with charts")
    if asked.cache is not None:
        check_folder(asked.cache, "--cache")
    asked.config()  # before any row is read
    rows = [how.rows(path) for path in (train, test)]
    if rows[0].sha256 == rows[1].sha256:
        err.print(f"{test} holds the training rows: nothing measured on it is of new texts.")
    others = [_other(words, how) for words in asked.other or []]
    model, long = engine.load(), engine.on_too_long
    backend = model.backend
    wrapping = usual_template(backend.identity, asked.template, err.print)
    scope = asked.scope or default_scope(rows[0].texts, wrapping)
    if how.skip_bad_rows:
        rows = [fitting(one, backend, wrapping, long, scope, True) for one in rows]
        for one, part in zip(rows, (".train", ".test"), strict=True):
            say_left_out(one, out_file, part)
    settings = asked.settings(wrapping, scope, backend.identity.num_layers, long)
    with work_folder(out_file) as work, progress_bar() as bar:
        found = study(model, rows[0], rows[1], others, work, settings, bar, err.print)
        with kept_if_unsaved():
            write_lines([json_line(found)], out_file)
    write_report([found], shown, f"Is it real? {found['name'].removeprefix('real-')}")
    if as_json:
        return print_json({"out": str(out_file), "page": str(shown), "results": found["results"]})
    _show(found, out_file, shown)


def _baselines(names: list[str] | None) -> tuple[str, ...]:
    from pillion.errors import unknown_name
    from pillion_bench.real.settings import BASELINES

    for name in names or ():
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    return BASELINES[:3] if names is None else tuple(names)


def _other(words: str, how: RowOptions) -> Any:
    """A set of another source: `NAME=FILE`, or `NAME=FILE:COLUMN` with kinds.

    Where rows may be left out, those without a kind are, too.
    """
    from pillion_bench.real.settings import Other

    name, found, path = words.partition("=")
    if not found or not name or not path:
        raise ConfigError(f"--other is {words!r}; give NAME=FILE, or NAME=FILE:COLUMN.")
    file, found, column = path.rpartition(":")
    if not found or path.startswith("hf:") or Path(path).exists():
        rows = how.rows(path)
        say_left_out(rows, None)
        return Other(name, rows)
    rows, kinds = _of_kinds(how.rows(file), how.rows(file, column))
    say_left_out(rows, None)
    return Other(name, rows, kinds)


def _of_kinds(rows: Rows, named: Rows) -> tuple[Rows, tuple[str, ...]]:
    """The rows that have a kind, and theirs: either reading may have left out rows of its own."""
    from pillion.data import names_of

    kinds = dict(zip(named.numbers, named.labels or (), strict=True))
    reasons = {one.row: one.reason for one in named.failed}
    gone = [
        FailedRow(place, reasons.get(number, "it has no kind"))
        for place, number in enumerate(rows.numbers, 1)
        if number not in kinds
    ]
    kept = rows.without(gone)
    return kept, tuple(", ".join(names_of(kinds[number])) for number in kept.numbers)


def _show(found: dict[str, Any], out_file: Path, page: Path) -> None:
    from pillion.metrics import leading_metric

    lead = leading_metric(found["task"])
    for one in found["results"]:
        if one["metric"] == lead and one["step"] in ("test", "other") and "group" not in one:
            value = "undefined" if one["value"] is None else f"{one['value']:.4f}"
            out.print(f"{one['set']:<20} {one['method']:<34} {lead} {value}")
    out.print(f"Result file: {out_file}; page: {page}")
