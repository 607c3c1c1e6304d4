"""`pillion bench accuracy`: every method of a suite on every data set, into result files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pillion.cli.app import err, out, print_json
from pillion.cli.bench import bench
from pillion.cli.options import Json, takes_options
from pillion.cli.places import check_file, check_folder
from pillion.cli.progress import progress_bar
from pillion.core import Scope
from pillion.core.extras import require
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion_bench.episodes import EpisodeSettings


@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """Which cells of which suite are measured."""

    suite: Annotated[
        str, typer.Option(help="A .toml or .yaml file, or default, the suite that ships.")
    ] = "default"
    data_root: Annotated[
        Path, typer.Option(help="Folder that the paths of the suite are below.")
    ] = Path()
    states: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps hidden states; default: states in --out."),
    ] = None
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A data set of the suite; repeat it; default: all."),
    ] = None
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A method of the suite; repeat it; default: all."),
    ] = None
    times: Annotated[
        int,
        typer.Option(min=0, help="Texts that a method's time is measured on; 0: no times."),
    ] = 20
    scope: Annotated[
        Scope | None,
        typer.Option(
            help="Whose words are read in every data set, by probes and by methods of texts; "
            "default: as the suite says."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EpisodeOptions:
    """How few rows are drawn to learn from."""

    episodes: Annotated[
        int,
        typer.Option(min=0, help="Learn from few rows, drawn anew so often; 0: from all rows."),
    ] = 0
    shots: Annotated[
        str, typer.Option(help="With --episodes: rows of each label, numbers with commas.")
    ] = "2,4,8,16,32"
    ways: Annotated[
        int | None,
        typer.Option(min=2, help="With --episodes: labels of each, drawn; default: all."),
    ] = None

    def settings(self, page: Path | None) -> EpisodeSettings | None:
        """How episodes are drawn; None for none.

        Raises:
            ConfigError: numbers that cannot be read or used, or a page, whose tables are of all
                rows.
        """
        from pillion_bench.episodes import EpisodeSettings

        if not self.episodes:
            return None
        if page is not None:
            raise ConfigError(
                "--page holds tables of runs on all rows; leave it out with --episodes."
            )
        numbers = [part.strip() for part in self.shots.split(",")]
        if not all(re.fullmatch("[0-9]{1,6}", part) for part in numbers):
            raise ConfigError(
                f"--shots is {self.shots!r}; write numbers with commas, such as 2,4,8."
            )
        shots = tuple(sorted({int(part) for part in numbers}))
        return EpisodeSettings(self.episodes, shots, self.ways)


@bench.command()
@takes_options
def accuracy(
    *,
    out_folder: Annotated[
        Path,
        typer.Option("--out", help="Folder of the run; run again, it does what is missing there."),
    ],
    cells: CellOptions,
    draws: EpisodeOptions,
    page: Annotated[
        Path | None,
        typer.Option(help="Markdown page whose tables are written anew; plots go to plots/ there."),
    ] = None,
    locked: Annotated[
        bool,
        typer.Option(
            "--locked", help="Read the test rows, too; without it all numbers are of validation."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure every method of a suite on every data set.

    A cell is one method on one data set with one seed; each is kept when it is done, and what is
    there is not done again unless its settings, data or model have changed. Hidden states are
    extracted once a data set. Everything is chosen on validation rows, and without --locked no test
    row is read: decide what to build without it, then lock and measure once. With --episodes every
    method learns from a few rows of each label, drawn again and again, and means come with
    intervals over the draws.
    """
    from pillion_bench.accuracy import RunSettings, bench_accuracy
    from pillion_bench.report import write_accuracy_page
    from pillion_bench.suite import load_suite

    check_folder(out_folder, "--out")
    if cells.states is not None:
        check_folder(cells.states, "--states")
    if page is not None:
        check_file(page, "--page", cells.suite)
        require("matplotlib", "A page with plots")
    drawn = draws.settings(page)
    with progress_bar() as bar:
        files = bench_accuracy(
            load_suite(cells.suite),
            RunSettings(
                root=cells.data_root,
                out=out_folder,
                states=cells.states,
                data=tuple(cells.data or ()),
                methods=tuple(cells.method or ()),
                times=cells.times,
                scope=cells.scope,
                episodes=drawn,
                locked=locked,
                progress=bar,
                say=err.print,
            ),
        )
    if page is not None:
        write_accuracy_page(files, page)
    if as_json:
        return print_json({"results": [str(file) for file in files]})
    for file in files:
        _show(file) if drawn is None else _show_episodes(file)


def _show_episodes(file: Path) -> None:
    """A line a method, a column a number of rows: means, and half the width of their intervals."""
    from pillion_bench.report import read_result

    content = read_result(file)
    settings, metric = content["settings"], content["settings"]["leading"][0]
    shots = settings["episodes"]["shots"]
    out.print(f"{settings['data_set']}, {metric} by rows a label ({file})")
    found = {
        (one["method"], one["shots"]): one for one in content["results"] if one["metric"] == metric
    }
    width = max((len(name) for name in settings["methods"]), default=0)
    out.print(f"  {'':<{width}}  " + "  ".join(f"{number:>13}" for number in shots))
    for name in settings["methods"]:
        cells = [_spread(found.get((name, number))) for number in shots]
        out.print(f"  {name:<{width}}  " + "  ".join(f"{cell:>13}" for cell in cells))


def _spread(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return "-"
    low, high = entry["interval"]
    return f"{entry['value']:.3f} ± {(high - low) / 2:.3f}"


def _show(file: Path) -> None:
    from pillion_bench.report import AccuracyResult, plain_table, read_result

    result = AccuracyResult(read_result(file))
    out.print(f"{result.data_set} ({file})")
    for line in plain_table(result):
        out.print(f"  {line}")
