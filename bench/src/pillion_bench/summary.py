"""From cells to a result file: mean and spread over seeds, intervals against the best baseline.

Promises that what is undefined is null with a reason beside it. Does not know how cells were made
nor how they are shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pillion.core import ModelIdentity
from pillion.metrics import PAIRED, Resampled, paired_difference, resampled
from pillion.metrics.classification import METRICS
from pillion.provenance import provenance
from pillion_bench.beside import beside, best_probe, shares
from pillion_bench.problem import Part, PartName, Problem
from pillion_bench.run_folder import Cell
from pillion_bench.suite import Suite

_NEGATIVES_NEEDED = {"tpr_at_fpr_1": 100, "tpr_at_fpr_01": 1000}

Cells = Mapping[str, Sequence[Cell]]


def summarise(
    suite: Suite,
    problem: Problem,
    model: ModelIdentity,
    cells: Cells,
    times: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The result file of one data set.

    Args:
        suite: what was measured.
        problem: the data set.
        model: whose states were read.
        cells: of every method that has any, one a seed.
        times: of every method whose time was measured.
    """
    draws = _Draws(problem, cells)
    settings = {
        "positives": shares(problem),
        "best_probe": best_probe(problem, draws.of_probes(problem.leading[0])),
        "notes": list(problem.notes),
        "methods": {name: _chosen(own) for name, own in cells.items()},
    }
    results = [*_quality(problem, cells, draws), *_prices(cells, times)]
    return result_file(suite, problem, model, settings, results)


def result_file(
    suite: Suite,
    problem: Problem,
    model: ModelIdentity,
    settings: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    part: str = "",
) -> dict[str, Any]:
    """Numbers of a data set, with everything needed to doubt or repeat them.

    Args:
        suite: what was measured.
        problem: the data set.
        model: whose states were read.
        settings: beside those of suite, data and model.
        results: a mapping a number.
        part: what the file is of, for its name, where it is not all of the data set.
    """
    split = split_of(problem)
    return {
        "name": f"{suite.name}-{problem.name}{part}{'' if split == 'test' else f'-{split}'}",
        "split": split,
        **provenance(),
        "seed": problem.spec.seed,
        "data": list(problem.files),
        "settings": {
            "suite": suite.name,
            "data_set": problem.name,
            "data": problem.spec.model_dump(),
            "task": problem.task,
            "num_labels": len(problem.space.names),
            "leading": list(problem.leading),
            "rows": {rows.name: len(rows) for rows in problem.parts},
            "model": {
                "name": _shown(model.name),
                "weights_sha256": model.weights_sha256,
                "dtype": model.dtype,
            },
            **settings,
        },
        "results": list(results),
    }


def _shown(model: str) -> str:
    """A model's name; of a file or folder the last part, for the path is one machine's alone."""
    return Path(model).name if Path(model).exists() else model


def with_reads(content: dict[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """A result file that says how often test rows were read for it: each day and commit once.

    Args:
        content: of the file.
        earlier: of the one that it replaces; None for none. One that does not say counts by its
            date.
    """
    if content["split"] != "test":
        return content
    known: list[Any] = []
    if earlier is not None:
        first = {"date": earlier.get("date"), "commit": earlier.get("commit")}
        known = earlier.get("reads", [first])
    now = {"date": content["date"], "commit": content["commit"]}
    return {**content, "reads": known if now in known else [*known, now]}


def split_of(problem: Problem) -> PartName:
    """The rows that numbers are of: `test` in a locked run, else `validation`."""
    return "validation" if problem.test is None else "test"


def _chosen(cells: Sequence[Cell]) -> dict[str, Any]:
    first = cells[0].facts
    kept = {name: first[name] for name in ("kind", "role", "settings")}
    if "not_measured" in first:
        return {**kept, "not_measured": first["not_measured"]}
    # Cells may come from several machines; older ones do not say from which.
    names = ("seed", "thresholds", "chosen", "fit_seconds", "machine", "commit")
    seeds = [{name: cell.facts[name] for name in names if name in cell.facts} for cell in cells]
    return {**kept, "seeds": seeds}


def _quality(problem: Problem, cells: Cells, draws: _Draws) -> Iterator[dict[str, Any]]:
    """One entry a method, subset and metric."""
    split, measured = split_of(problem), draws.measured
    rivals = {metric: best_baseline(measured, metric, split) for metric in PAIRED}
    for name, own in cells.items():
        if name not in measured:
            reason = own[0].facts["not_measured"]
            yield {"metric": "not_measured", "method": name, "value": None, "reason": reason}
            continue
        for subset, values in own[0].facts["metrics"].items():
            for metric in METRICS:
                if metric not in values:
                    continue
                entry = _entry(problem, name, own, subset, metric)
                if subset == split and metric in PAIRED:
                    entry |= _against(draws, name, rivals[metric], metric)
                yield entry
        yield from _beside(problem, name, own)


def _beside(problem: Problem, name: str, own: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    """What stands beside: one entry a number and part, the mean over seeds."""
    for part in problem.parts:
        if part.name == "train":
            continue
        each = [beside(problem, part, cell.probs[part.name], _lines(cell)) for cell in own]
        for metric in each[0]:
            values = [found[metric] for found in each]
            defined = [value for value in values if value is not None]
            yield {
                "metric": f"{part.name}_{metric}",
                "method": name,
                "role": own[0].facts["role"],
                "rows": len(part),
                "value": statistics.fmean(defined) if defined else None,
                "spread": statistics.stdev(defined) if len(defined) > 1 else None,
                "per_seed": values,
            }


def _entry(
    problem: Problem, name: str, own: Sequence[Cell], subset: str, metric: str
) -> dict[str, Any]:
    """Mean and spread (standard deviation over seeds, n - 1) of one metric."""
    values = [cell.facts["metrics"][subset][metric] for cell in own]
    defined = [value for value in values if value is not None]
    entry: dict[str, Any] = {
        "metric": f"{subset}_{metric}",
        "method": name,
        "role": own[0].facts["role"],
        "rows": own[0].facts["rows"][subset],
        "seeds": [cell.facts["seed"] for cell in own],
        "value": statistics.fmean(defined) if defined else None,
        "spread": statistics.stdev(defined) if len(defined) > 1 else None,
        "per_seed": values,
    }
    if not defined:
        entry["reason"] = _why_undefined(problem, subset, metric)
    return entry


def _why_undefined(problem: Problem, subset: str, metric: str) -> str:
    part = problem.validation if subset == "validation" else problem.test
    assert part is not None
    if metric in _NEGATIVES_NEEDED and problem.task == "binary":
        needed, found = _NEGATIVES_NEEDED[metric], int((part.targets == 0).sum())
        if found < needed:
            return f"not enough negatives ({found:,} of {needed:,})"
    return f"undefined for these rows of a {problem.task} task"


def best_baseline(measured: Cells, metric: str, split: PartName) -> str | None:
    """The baseline with the highest mean on the rows that are asked: the hardest one to beat."""
    means: dict[str, float] = {}
    for name, own in measured.items():
        values = [cell.facts["metrics"][split][metric] for cell in own]
        if own[0].facts["role"] == "baseline" and None not in values:
            means[name] = statistics.fmean(values)
    return max(means, key=means.__getitem__) if means else None


def _against(draws: _Draws, name: str, rival: str | None, metric: str) -> dict[str, Any]:
    """The paired difference to the best baseline, and to the upper mark where there is one."""
    found: dict[str, Any] = {}
    if rival is not None and rival != name:
        found |= {"baseline": rival, **draws.difference(name, rival, metric)}
    cells = draws.measured.items()
    marks = [other for other, own in cells if own[0].facts["role"] == "mark"]
    if marks and name not in marks:
        found |= {"mark": marks[0]}
        found |= draws.difference(name, marks[0], metric, "mark_")
    return found


class _Draws:
    """What each method's metrics are on the same draws of a part's rows; made once."""

    def __init__(self, problem: Problem, cells: Cells) -> None:
        self.problem, self.split = problem, split_of(problem)
        self.measured = {name: own for name, own in cells.items() if own and own[0].probs}
        self.known: dict[tuple[str, str, str], Resampled] = {}

    def of(self, name: str, metric: str, part: Part | None = None) -> Resampled:
        problem = self.problem
        part = part or problem.test or problem.validation
        at = name, metric, part.name
        if at not in self.known:
            seeds = [(cell.probs[part.name], _lines(cell)) for cell in self.measured[name]]
            self.known[at] = resampled(metric, seeds, part.targets, problem.task)
        return self.known[at]

    def of_probes(self, metric: str) -> dict[str, Resampled]:
        """Of every probe on validation; empty where draws do not know the metric."""
        return {
            name: self.of(name, metric, self.problem.validation)
            for name, own in self.measured.items()
            if own[0].facts["role"] == "probe" and metric in PAIRED
        }

    def difference(self, name: str, rival: str, metric: str, prefix: str = "") -> dict[str, Any]:
        found = paired_difference(self.of(name, metric), self.of(rival, metric))
        if found is None:
            return {}
        interval = [found.low, found.high]
        return {f"{prefix}difference": found.estimate, f"{prefix}interval": interval}


def _lines(cell: Cell) -> tuple[float, ...] | None:
    thresholds = cell.facts["thresholds"]
    return None if thresholds is None else tuple(thresholds)


def _prices(cells: Cells, times: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for name, own in cells.items():
        if own and own[0].probs:
            yield {
                "metric": "parameters",
                "method": name,
                "value": own[0].facts["parameters"],
            }
    for name, found in times.items():
        rest = {key: value for key, value in found.items() if key != "added_ms"}
        yield {"metric": "added_ms", "method": name, "value": found["added_ms"], **rest}
