"""`pillion bench accuracy --episodes`: every method on a few rows a label, drawn again and again.

Promises that all methods see the same episodes, that what is done is not done again, and an
interval over episodes beside every mean. Does not know how episodes are drawn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pillion.backends import Backend
from pillion.core import ModelIdentity
from pillion.metrics import interval
from pillion_bench.baselines import Workplace
from pillion_bench.cells import Entry, digest, fitted_cells, stands
from pillion_bench.episodes import MOST_QUERIES, EpisodeSettings, episode_problem
from pillion_bench.problem import Problem
from pillion_bench.run_folder import Cell, RunFolder, digest_of
from pillion_bench.suite import Suite
from pillion_bench.summary import result_file

EpisodeCells = Mapping[str, Mapping[int, Sequence[Cell]]]
"""Method -> rows a label -> a cell an episode; no cells for a method that cannot be used."""

SUBSET = "test"
"""Of an episode's problem: the rows that it asks about."""


def episode_cells(
    place: Workplace,
    entries: Sequence[Entry],
    folder: RunFolder,
    settings: EpisodeSettings,
    is_asked: Callable[[Entry], bool],
    say: Callable[[str], object],
) -> dict[str, dict[int, list[Cell]]]:
    """The cells of every method: those that lie there; the missing ones too, where it is asked for.

    Args:
        place: the data set, its states and model.
        entries: methods.
        folder: where cells are kept.
        settings: how episodes are drawn.
        is_asked: whether this run measures a method.
        say: told of every method and number of rows.

    Raises:
        DataError: a label has fewer rows than are asked for.
        ConfigError: more labels are asked for than there are.
    """
    backend = place.states.backend
    # Faults of the largest episode come before any work.
    episode_problem(place.problem, settings, max(settings.shots), 0)
    found: dict[str, dict[int, list[Cell]]] = {}
    for entry in entries:
        reason = entry.method.why_not(place.problem, backend)
        if reason is not None:
            say(f"{place.problem.name}, {entry.name}: not measured. {reason}")
            continue
        each = {
            shots: _cells(place, entry, folder, settings, shots, is_asked(entry), say)
            for shots in settings.shots
        }
        if any(each.values()):
            found[entry.name] = {shots: cells for shots, cells in each.items() if cells}
    return found


def _cells(
    place: Workplace,
    entry: Entry,
    folder: RunFolder,
    settings: EpisodeSettings,
    shots: int,
    is_asked: bool,
    say: Callable[[str], object],
) -> list[Cell]:
    data, name = place.problem.name, f"{entry.name}/shots-{shots}"
    found: list[Cell] = []
    for seed in range(settings.count):
        made_from = _digest(entry, place.problem, place.states.backend, settings, shots, seed)
        cell = folder.cell(data, name, seed, made_from)
        if cell is not None and not stands(cell, entry, place.states.backend, [seed]):
            cell = None
        if cell is None and is_asked:
            if not found:
                say(f"{data}, {entry.name}: {shots} rows a label")
            problem = episode_problem(place.problem, settings, shots, seed)
            here = replace(
                place,
                problem=problem,
                states=place.states.of(problem),
                folder=folder.work(made_from),
            )
            (cell,) = fitted_cells(entry, here, {seed: made_from})
            folder.clear_work(made_from)
            folder.keep_cell(data, name, seed, cell)
        if cell is not None:
            found.append(cell)
    # A mean over other episodes than the rest's is no comparison.
    return found if len(found) == settings.count else []


def _digest(
    entry: Entry,
    problem: Problem,
    backend: Backend,
    settings: EpisodeSettings,
    shots: int,
    seed: int,
) -> str:
    """An episode's rows depend on how many it draws at most, not on how many episodes there are."""
    episode = {"shots": shots, "most": max(settings.shots), "ways": settings.ways}
    return digest_of({"of": digest(entry, problem, backend, seed), "episode": episode})


def summarise_episodes(
    suite: Suite,
    problem: Problem,
    model: ModelIdentity,
    settings: EpisodeSettings,
    cells: EpisodeCells,
) -> dict[str, Any]:
    """The result file of one data set.

    Args:
        suite: what was measured.
        problem: the data set.
        model: whose states were read.
        settings: how episodes were drawn.
        cells: of every method.
    """
    how = {
        "episodes": {**asdict(settings), "most_queries": MOST_QUERIES},
        "methods": {
            name: {at: first.facts[at] for at in ("kind", "role", "settings")}
            for name, own in cells.items()
            for first in [next(iter(own.values()))[0]]
        },
    }
    results = [
        entry
        for metric in problem.leading
        for shots in settings.shots
        for entry in _entries(metric, shots, cells)
    ]
    told = result_file(suite, problem, model, how, results, part="-episodes")
    return told | {"kind": "episodes"}


def _entries(metric: str, shots: int, cells: EpisodeCells) -> Iterator[dict[str, Any]]:
    """A metric of every method, over episodes, and what it is more than the best baseline's."""
    values = {
        name: [cell.facts["metrics"][SUBSET][metric] for cell in own[shots]]
        for name, own in cells.items()
        if shots in own
    }
    known = {name: np.array(each, dtype=float) for name, each in values.items() if None not in each}
    roles = {name: cells[name][shots][0].facts["role"] for name in values}
    baselines = [name for name in known if roles[name] == "baseline"]
    rival = max(baselines, key=lambda name: known[name].mean(), default=None)
    for name, each in values.items():
        entry: dict[str, Any] = {
            "metric": metric,
            "method": name,
            "role": roles[name],
            "shots": shots,
            "episodes": len(each),
            "value": None,
            "interval": None,
            "spread": None,
            "per_episode": each,
        }
        if name in known:
            entry |= {"value": float(known[name].mean()), "interval": _around(known[name])}
            entry |= {"spread": statistics.stdev(each)}
            if rival is not None and rival != name:
                more = known[name] - known[rival]
                entry |= {"baseline": rival, "difference": float(more.mean())}
                entry |= {"difference_interval": _around(more)}
        yield entry


def _around(values: np.ndarray) -> list[float]:
    """The 95 % interval of the mean, over draws of the episodes."""
    found = interval(_mean, values)
    assert found is not None
    return [found.low, found.high]


def _mean(values: np.ndarray) -> float:
    return float(values.mean())
