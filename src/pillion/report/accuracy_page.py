"""The tables of `docs/results.md`, from the result files of `pillion bench accuracy`.

Promises the same text for the same files, and that an undefined number is a word, never 0. Draws
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "tpr_at_fpr_1": "TPR at 1 % FPR",
    "tpr_at_fpr_01": "TPR at 0.1 % FPR",
    "ece": "ECE",
    "brier": "Brier",
}
ROLES = ("probe", "baseline", "mark", "control")
NOTHING = "–"


@dataclass(frozen=True)
class AccuracyResult:
    """The result file of one data set.

    Attributes:
        content: what the file holds.
    """

    content: Mapping[str, Any]

    @property
    def data_set(self) -> str:
        """Its name."""
        return self.content["settings"]["data_set"]

    @property
    def split(self) -> str:
        """The rows that its numbers are of: `test`, or `validation`."""
        return self.content.get("split", "test")

    @property
    def mark(self) -> str:
        """What names its place on a page."""
        return self.data_set if self.split == "test" else f"{self.data_set}, {self.split}"

    @property
    def leading(self) -> list[str]:
        """The metrics that lead the table."""
        return self.content["settings"]["leading"]

    @cached_property
    def entries(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """The entries by method and metric."""
        return {(e["method"], e["metric"]): e for e in self.content["results"]}

    def entry(self, method: str, metric: str) -> Mapping[str, Any] | None:
        """One entry; None where there is none."""
        return self.entries.get((method, metric))

    def value(self, method: str, metric: str) -> float | None:
        """One number; None where it is undefined or was not measured."""
        found = self.entry(method, metric)
        number = None if found is None else found["value"]
        return None if number is None else float(number)  # JSON writes whole numbers without a dot

    def methods(self) -> list[str]:
        """The methods that were measured, by role, best first."""
        named = self.content["settings"]["methods"]
        measured = [name for name in named if "not_measured" not in named[name]]

        def rank(name: str) -> tuple[int, float]:
            value = self.value(name, f"{self.split}_{self.leading[0]}")
            return ROLES.index(named[name]["role"]), -(-1.0 if value is None else value)

        return sorted(measured, key=rank)

    def role(self, method: str) -> str:
        """Of a method."""
        return self.content["settings"]["methods"][method]["role"]


def section(result: AccuracyResult) -> str:
    """The table of a data set with what has to be known to read it."""
    settings = result.content["settings"]
    rows, model = settings["rows"], settings["model"]
    metrics = _metrics(result)
    lines = [
        f"{settings['num_labels']} labels; {rows['train']:,} rows to train on, "
        f"{rows['validation']:,} to choose on, {_asked(rows)}; template "
        f"`{settings['data']['template']}`; {model['name']} in {model['dtype']}; "
        f"{_layers(settings['data']['layers'])}.",
        "",
        *_table(result, metrics),
    ]
    notes = [*_notes(result, metrics), *settings["notes"]]
    return "\n".join([*lines, *([""] if notes else []), *(f"- {note}" for note in notes)])


def _asked(rows: Mapping[str, int]) -> str:
    return f"{rows['test']:,} to test on" if "test" in rows else "which the numbers are of"


def with_sections(page: str, results: Sequence[AccuracyResult]) -> str:
    """A page whose marked parts are those of the results; a data set without one is appended."""
    for result in results:
        begin, end = _marks(result.mark)
        text = f"{begin}\n\n{section(result)}\n\n{_image(result)}\n\n{end}"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
        if pattern.search(page):
            page = pattern.sub(lambda _, text=text: text, page)
        else:
            page = f"{page.rstrip()}\n\n## {result.mark}\n\n{text}\n"
    return page


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- accuracy: {name} -->", f"<!-- end: {name} -->"


def _image(result: AccuracyResult) -> str:
    return f"![{result.data_set}: every method](plots/{result.content['name']}.png)"


def _layers(layers: Sequence[int] | None) -> str:
    return "all layers" if layers is None else f"layers {', '.join(map(str, layers))}"


def _metrics(result: AccuracyResult) -> list[str]:
    """The leading metrics, then those that are defined for any method of this task."""
    rest = [
        metric
        for metric in TITLES
        if metric not in result.leading
        and any(_reason(result, m, metric) or _has(result, m, metric) for m in result.methods())
    ]
    return [*result.leading, *rest]


def _has(result: AccuracyResult, method: str, metric: str) -> bool:
    return result.value(method, f"{result.split}_{metric}") is not None


def _reason(result: AccuracyResult, method: str, metric: str) -> str:
    """Why a number is missing, if more is to be said than that it is undefined for the task."""
    found = result.entry(method, f"{result.split}_{metric}")
    reason = "" if found is None else found.get("reason", "")
    return reason if reason.startswith("not enough") else ""


def _table(result: AccuracyResult, metrics: Sequence[str]) -> list[str]:
    first = result.leading[0]
    titles = [
        "method",
        *(TITLES[metric] for metric in metrics),
        f"{TITLES[first]} against the best baseline",
        "parameters",
        "ms added",
        "MB kept",
    ]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    for name in result.methods():
        cells = [
            f"`{name}`" if result.role(name) == "probe" else f"{name} ({result.role(name)})",
            *(_number(result, name, metric) for metric in metrics),
            _difference(result, name, first),
            _count(result.value(name, "parameters")),
            _milliseconds(result, name),
            _megabytes(result, name),
        ]
        lines.append(_line(cells))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(result: AccuracyResult, method: str, metric: str) -> str:
    found = result.entry(method, f"{result.split}_{metric}")
    if found is None:
        return NOTHING
    if found["value"] is None:
        return _reason(result, method, metric).partition(" (")[0] or "undefined"
    spread = "" if found["spread"] is None else f" ± {found['spread']:.3f}"
    return f"{found['value']:.3f}{spread}"


def _difference(result: AccuracyResult, method: str, metric: str) -> str:
    found = result.entry(method, f"{result.split}_{metric}")
    if found is None or "difference" not in found:
        return NOTHING
    low, high = found["interval"]
    return f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _milliseconds(result: AccuracyResult, method: str) -> str:
    value = result.value(method, "added_ms")
    return NOTHING if value is None else f"{value:.1f}"


def _megabytes(result: AccuracyResult, method: str) -> str:
    """What has to be in memory beside the language model."""
    found = result.entry(method, "added_ms")
    return NOTHING if found is None else f"{found['weights_bytes'] / 1e6:,.1f}"


def _notes(result: AccuracyResult, metrics: Sequence[str]) -> list[str]:
    notes: list[str] = []
    best = {
        found["baseline"]
        for name in result.methods()
        if (found := result.entry(name, f"{result.split}_{metrics[0]}")) and "baseline" in found
    }
    if best:
        notes.append(
            f"The best baseline by {TITLES[metrics[0]]} on the {result.split} rows is "
            f"{', '.join(sorted(best))}; in brackets the paired bootstrap interval (95 %)."
        )
    reasons = {
        f"{TITLES[metric]}: {reason}."
        for metric in metrics
        for name in result.methods()
        if (reason := _reason(result, name, metric))
    }
    notes += sorted(reasons)
    bare = [e["bare_ms"] for e in result.content["results"] if e["metric"] == "added_ms"]
    if bare:
        middle = sorted(bare)[len(bare) // 2]
        notes.append(f"The bare pass takes {middle:.0f} ms a text (median, one text at a time).")
    named = result.content["settings"]["methods"]
    notes += [
        f"{name}: not measured. {facts['not_measured']}"
        for name, facts in named.items()
        if "not_measured" in facts
    ]
    return notes


def plain_table(result: AccuracyResult) -> list[str]:
    """The leading numbers of every method, as lines for a terminal."""
    titles = ["method", *(TITLES[metric] for metric in result.leading), "ms added"]
    rows = [
        [name, *(_number(result, name, m) for m in result.leading), _milliseconds(result, name)]
        for name in result.methods()
    ]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (titles, *rows)
    ]
