"""`pillion bench accuracy`: every method of a suite on every data set, cell by cell.

Promises that what is done is not done again, and that an interrupted run goes on. The whole run in
the order of time; each step is another file's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pillion.backends import Backend, load_backend
from pillion.errors import Interrupted, unknown_name
from pillion.evals.baselines import Method, Outcome, Workplace, make_method
from pillion.evals.problem import Problem, open_problem
from pillion.evals.run_folder import Cell, RunFolder, digest_of, write_json
from pillion.evals.states import States
from pillion.evals.suite import MethodSpec, Suite
from pillion.evals.summary import summarise
from pillion.evals.times import Clock, measure_times
from pillion.extract import Progress, silent
from pillion.metrics import evaluate
from pillion.train import choose_thresholds


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
        progress: told of long work.
        say: told what is going on, in sentences.
    """

    root: Path
    out: Path
    states: Path | None = None
    data: Sequence[str] = ()
    methods: Sequence[str] = ()
    times: int = 20
    progress: Progress = silent
    say: Callable[[str], object] = print

    @property
    def states_folder(self) -> Path:
        """Where hidden states are kept."""
        return self.states or self.out / "states"


@dataclass
class _Run:
    """A run over one data set."""

    suite: Suite
    settings: RunSettings
    backend: Backend
    problem: Problem
    states: States
    folder: RunFolder
    cells: dict[str, list[Cell]] = field(default_factory=dict[str, list[Cell]])


def bench_accuracy(suite: Suite, settings: RunSettings) -> list[Path]:
    """Fits and tests every method; the result files that were written, one a data set.

    Args:
        suite: data sets, methods and seeds.
        settings: places, and which part of the suite is done.

    Raises:
        ConfigError: a data set or method that the suite does not have, or settings that do not fit.
        DataError: rows that cannot be used.
        Interrupted: by Ctrl-C; the same call goes on.
    """
    _check_names(suite, settings)
    for name in suite.data:  # all settings are read before any work begins
        list(_methods(suite, name))
    backend = load_backend(suite.model, suite.dtype)
    try:
        return [
            _bench_data(suite, settings, backend, name)
            for name in suite.data
            if not settings.data or name in settings.data
        ]
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"The run was interrupted; what is done lies in {settings.out}, and the same command "
            "goes on."
        ) from error


def _bench_data(suite: Suite, settings: RunSettings, backend: Backend, name: str) -> Path:
    problem = open_problem(name, suite.data[name], settings.root)
    for note in problem.notes:
        settings.say(f"{name}: {note}")
    where = settings.states_folder / name
    with States(backend, problem, where, settings.progress, settings.say) as states:
        run = _Run(suite, settings, backend, problem, states, RunFolder(settings.out))
        for method_name, spec, method in _methods(suite, name):
            if cells := _cells(run, method_name, spec, method):
                run.cells[method_name] = cells
        times = _times(run)
    path = settings.out / f"{suite.name}-{name}.json"
    write_json(path, summarise(suite, problem, backend.identity, run.cells, times))
    return path


def _check_names(suite: Suite, settings: RunSettings) -> None:
    for kind, given, known in (
        ("data set", settings.data, suite.data),
        ("method", settings.methods, suite.methods),
    ):
        for name in given:
            if name not in known:
                raise unknown_name(kind, name, known)


def _methods(suite: Suite, data: str) -> Iterator[tuple[str, MethodSpec, Method]]:
    """The methods of a data set with their settings there."""
    for name, spec in suite.methods_of(data).items():
        yield name, spec, make_method(spec.kind, spec.options(data), f"methods.{name}")


def _cells(run: _Run, name: str, spec: MethodSpec, method: Method) -> list[Cell]:
    """The cells of a method: those that lie there; the missing ones too, if it is asked for."""
    data, seeds = run.problem.name, spec.seeds or run.suite.seeds
    seeds = seeds if method.seeded else seeds[:1]
    digests = {seed: digest_of(_made_from(run, spec, method, seed)) for seed in seeds}
    found = {seed: run.folder.cell(data, name, seed, digests[seed]) for seed in seeds}
    missing = [seed for seed in seeds if found[seed] is None]
    if missing and _is_asked(run.settings, name):
        made = _fit(run, name, spec, method, missing, digests)
        for seed, cell in zip(missing, made, strict=True):
            whole = Cell({**cell.facts, "seed": seed, "digest": digests[seed]}, cell.probs)
            run.folder.keep_cell(data, name, seed, whole)
            found[seed] = whole
    return [cell for cell in found.values() if cell is not None]


def _is_asked(settings: RunSettings, method: str) -> bool:
    return not settings.methods or method in settings.methods


def _fit(
    run: _Run,
    name: str,
    spec: MethodSpec,
    method: Method,
    seeds: list[int],
    digests: dict[int, str],
) -> list[Cell]:
    """New cells, one a seed."""
    say, data = run.settings.say, run.problem.name
    reason = method.why_not(run.problem)
    if reason is not None:
        say(f"{data}, {name}: not measured. {reason}")
        return [Cell({**_facts(spec, method), "not_measured": reason}, {})] * len(seeds)
    say(
        f"{data}, {name}: seed {', '.join(map(str, seeds))}" if method.seeded else f"{data}, {name}"
    )
    digest = digests[seeds[0]]
    place = Workplace(run.problem, run.states, run.folder.work(digest), run.settings.progress)
    begin = time.perf_counter()
    outcomes = method.fit(place, seeds)
    each = (time.perf_counter() - begin) / len(seeds)
    made = [_cell(run, spec, method, one, each) for one in outcomes]
    run.folder.clear_work(digest)
    return made


def _made_from(run: _Run, spec: MethodSpec, method: Method, seed: int) -> dict[str, Any]:
    """Everything that a cell depends on."""
    identity = run.backend.identity
    return {
        "data": run.problem.spec.model_dump(),
        "files": run.problem.files,
        "kind": spec.kind,
        "settings": method.settings.model_dump(),
        "seed": seed,
        "model": [identity.weights_sha256, identity.template_sha256, identity.dtype],
    }


def _facts(spec: MethodSpec, method: Method) -> dict[str, Any]:
    return {"kind": spec.kind, "role": method.role, "settings": method.settings.model_dump()}


def _cell(run: _Run, spec: MethodSpec, method: Method, outcome: Outcome, seconds: float) -> Cell:
    """Metrics of an outcome, at thresholds chosen on validation."""
    problem, task = run.problem, run.problem.task
    held = np.clip(outcome.validation.astype(np.float32), 0, 1)
    test = np.clip(outcome.test.astype(np.float32), 0, 1)
    thresholds = choose_thresholds(task, torch.from_numpy(held), problem.validation.targets)
    unseen = problem.unseen()
    subsets = {
        "validation": (held, problem.validation.targets),
        "test": (test, problem.test.targets),
        "test_unseen": (test[unseen], problem.test.targets[unseen]),
    }
    facts = {
        **_facts(spec, method),
        "metrics": {
            subset: evaluate(probs, targets, task, thresholds)
            for subset, (probs, targets) in subsets.items()
        },
        "rows": {subset: len(probs) for subset, (probs, _) in subsets.items()},
        "thresholds": thresholds,
        "parameters": outcome.parameters,
        "chosen": outcome.chosen,
        "fit_seconds": round(seconds, 1),
    }
    return Cell(facts, {"validation": held, "test": test})


def _times(run: _Run) -> dict[str, dict[str, Any]]:
    """What every method adds while a text is served: measured where it was not yet."""
    data, settings = run.problem.name, run.settings
    found: dict[str, dict[str, Any]] = {}
    clock: Clock | None = None
    for name, _, method in _methods(run.suite, data):
        known = run.folder.times(data, name)
        wanted = settings.times and _is_asked(settings, name)
        if known is None and wanted and method.why_not(run.problem) is None:
            clock = clock or Clock(run.states, run.problem, settings.times)
            place = Workplace(run.problem, run.states, run.folder.work("times"), settings.progress)
            settings.say(f"{data}, {name}: time")
            known = measure_times(clock, method.serving(place))
            run.folder.keep_times(data, name, known)
        if known is not None:
            found[name] = known
    return found
