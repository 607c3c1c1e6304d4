"""`pillion bench accuracy`: every method of a suite on every data set, cell by cell.

Promises that what is done is not done again, and that an interrupted run goes on. The whole run in
the order of time; each step is another file's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillion.backends import Backend, load_backend
from pillion.core import Scope
from pillion.errors import Interrupted, unknown_name
from pillion.extract import Progress, silent
from pillion_bench.baselines import Workplace, make_method
from pillion_bench.cells import Entry, digest, fitted_cells, stands, times_digest, unused_cell
from pillion_bench.episodes import EpisodeSettings
from pillion_bench.episodic import episode_cells, summarise_episodes
from pillion_bench.problem import Problem, open_problem
from pillion_bench.run_folder import Cell, RunFolder, read_json, write_json
from pillion_bench.states import States
from pillion_bench.suite import Suite
from pillion_bench.summary import summarise, with_reads
from pillion_bench.times import Clock, measure_times


@dataclass(frozen=True)
class RunSettings:
    """Where a run reads and writes, and which part of a suite it does.

    Attributes:
        root: folder of the data.
        out: the run's folder; what lies there and still holds is not computed again.
        states: folder of hidden states; None for one below `out`.
        data: names of data sets; empty for all.
        methods: names of methods; empty for all.
        times: texts a method's time is measured on; 0 leaves times as they are.
        scope: whose words are read in every data set; None: as the suite says.
        episodes: how rows are drawn for learning from few of them; None to learn from all.
        locked: read test rows, too. Without it no test row is read, and all numbers are of
            validation rows.
        progress: told of long work.
        say: told what is going on, in sentences.
    """

    root: Path
    out: Path
    states: Path | None = None
    data: Sequence[str] = ()
    methods: Sequence[str] = ()
    times: int = 20
    scope: Scope | None = None
    episodes: EpisodeSettings | None = None
    locked: bool = False
    progress: Progress = silent
    say: Callable[[str], object] = print

    @property
    def states_folder(self) -> Path:
        """Where hidden states are kept."""
        return self.states or self.out / "states"


@dataclass(frozen=True)
class _Run:
    """A run over one data set."""

    settings: RunSettings
    backend: Backend
    problem: Problem
    states: States
    folder: RunFolder

    def is_asked(self, entry: Entry) -> bool:
        """Whether this run measures a method, or takes what lies there."""
        return not self.settings.methods or entry.name in self.settings.methods

    def place(self, digest: str) -> Workplace:
        """Where a method works."""
        return Workplace(
            self.problem, self.states, self.folder.work(digest), self.settings.progress
        )


def bench_accuracy(suite: Suite, settings: RunSettings) -> list[Path]:
    """Fits and measures every method; the result files that were written, one a data set.

    Args:
        suite: data sets, methods and seeds.
        settings: places, and which part of the suite is done.

    Raises:
        ConfigError: a data set or method that the suite does not have, or settings that do not fit.
        DataError: rows that cannot be used.
        ConvergenceError: a fit that is not at its optimum.
        Interrupted: by Ctrl-C; the same call goes on.
    """
    _check_names(suite, settings)
    # All settings are read before any work begins.
    entries = {name: _entries(suite, name) for name in suite.data}
    backend = load_backend(suite.model, suite.dtype)
    try:
        return [
            _bench_data(suite, settings, backend, name, entries[name])
            for name in suite.data
            if not settings.data or name in settings.data
        ]
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"The run was interrupted; what is done lies in {settings.out}, and the same command "
            "goes on."
        ) from error


def _bench_data(
    suite: Suite, settings: RunSettings, backend: Backend, name: str, entries: Sequence[Entry]
) -> Path:
    spec = suite.data[name]
    if settings.scope is not None:
        spec = spec.model_copy(update={"scope": settings.scope})
    problem = open_problem(name, spec, settings.root, locked=settings.locked)
    for note in problem.notes:
        settings.say(f"{name}: {note}")
    where = settings.states_folder / name
    with States(backend, problem, where, settings.progress, settings.say) as states:
        folder = RunFolder(settings.out, locked=settings.locked)
        run = _Run(settings, backend, problem, states, folder)
        content = _measured(suite, run, entries)
    path = settings.out / f"{content['name']}.json"
    write_json(path, with_reads(content, read_json(path)))
    return path


def _measured(suite: Suite, run: _Run, entries: Sequence[Entry]) -> dict[str, Any]:
    """The content of the result file."""
    problem, model, episodes = run.problem, run.backend.identity, run.settings.episodes
    if episodes is None:
        cells = {entry.name: own for entry in entries if (own := _cells(run, entry))}
        return summarise(suite, problem, model, cells, _times(run, entries))
    found = episode_cells(
        run.place("episodes"), entries, run.folder, episodes, run.is_asked, run.settings.say
    )
    return summarise_episodes(suite, problem, model, episodes, found)


def _check_names(suite: Suite, settings: RunSettings) -> None:
    for kind, given, known in (
        ("data set", settings.data, suite.data),
        ("method", settings.methods, suite.methods),
    ):
        for name in given:
            if name not in known:
                raise unknown_name(kind, name, known)


def _entries(suite: Suite, data: str) -> list[Entry]:
    """The methods of a data set, with their settings and seeds there."""
    found: list[Entry] = []
    for name, spec in suite.methods_of(data).items():
        method = make_method(spec.kind, spec.options(data), f"methods.{name}")
        seeds = spec.seeds or suite.seeds
        found.append(Entry(name, spec.kind, method, seeds if method.seeded else seeds[:1]))
    return found


def _cells(run: _Run, entry: Entry) -> list[Cell]:
    """The cells of a method: those that lie there; the missing ones too, if it is asked for."""
    data, folder = run.problem.name, run.folder
    reason = entry.method.why_not(run.problem, run.backend)
    found: dict[int, Cell] = {}
    for seed in entry.seeds:
        known = folder.cell(data, entry.name, seed, digest(entry, run.problem, run.backend, seed))
        # What could not be measured then may be possible now.
        measured = known is not None and (known.probs or reason)
        if known is not None and measured and stands(known, entry, run.backend, entry.seeds):
            found[seed] = known
    missing = [seed for seed in entry.seeds if seed not in found]
    if missing and run.is_asked(entry):
        if entry.method.is_one_choice:
            missing = [*entry.seeds]
        for seed, cell in zip(missing, _made(run, entry, missing, reason), strict=True):
            found[seed] = cell
            folder.keep_cell(data, entry.name, seed, cell)
    return [found[seed] for seed in entry.seeds if seed in found]


def _made(run: _Run, entry: Entry, seeds: list[int], reason: str | None) -> list[Cell]:
    """New cells, one a seed."""
    say, data = run.settings.say, run.problem.name
    digests = {seed: digest(entry, run.problem, run.backend, seed) for seed in seeds}
    if reason is not None:
        say(f"{data}, {entry.name}: not measured. {reason}")
        return [unused_cell(entry, seed, digests[seed], reason) for seed in seeds]
    which = f" (seed {', '.join(map(str, seeds))})" if entry.method.seeded else ""
    say(f"{data}, {entry.name}{which}")
    work = digests[seeds[0]]
    cells = fitted_cells(entry, run.place(work), digests)
    run.folder.clear_work(work)
    return cells


def _times(run: _Run, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """What every method adds while a text is served: measured where it was not yet."""
    data, settings = run.problem.name, run.settings
    found: dict[str, dict[str, Any]] = {}
    clock: Clock | None = None
    for entry in entries:
        made_from = times_digest(entry, run.problem, run.backend)
        known = run.folder.times(data, entry.name, made_from)
        wanted = settings.times and run.is_asked(entry)
        if known is None and wanted and entry.method.why_not(run.problem, run.backend) is None:
            clock = clock or Clock(run.states, run.problem, settings.times)
            settings.say(f"{data}, {entry.name}: time")
            known = measure_times(clock, entry.method.serving(run.place(made_from)))
            run.folder.keep_times(data, entry.name, {**known, "digest": made_from})
        if known is not None:
            found[entry.name] = {name: value for name, value in known.items() if name != "digest"}
    return found
