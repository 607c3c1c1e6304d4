"""The tables of `docs/results.md`, from the result files of `pillion bench accuracy`.

Promises the same text for the same files, and that an undefined number is a word, never 0. Draws
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pillion_bench.report.accuracy_notes import notes_of
from pillion_bench.report.accuracy_result import NOTHING, TITLES, AccuracyResult


def section(result: AccuracyResult) -> str:
    """The table of a data set with what has to be known to read it."""
    settings = result.content["settings"]
    rows, model = settings["rows"], settings["model"]
    metrics = result.metrics()
    lines = [
        f"{settings['num_labels']} labels; {rows['train']:,} rows to train on, "
        f"{rows['validation']:,} to choose on, {_asked(rows)}; template "
        f"`{settings['data']['template']}`; {model['name']} in {model['dtype']}; "
        f"{_layers(settings['data']['layers'])}.",
        "",
        *_table(result, metrics),
    ]
    notes = [*notes_of(result), *settings["notes"]]
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


def _table(result: AccuracyResult, metrics: Sequence[str]) -> list[str]:
    first = result.leading[0]
    beside = _beside(result)
    titles = [
        "method",
        *(TITLES[metric] for metric in metrics),
        *beside,
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
            *(_of(number(name)) for number in beside.values()),
            _difference(result, name, first),
            _count(result.value(name, "parameters")),
            _milliseconds(result, name),
            _megabytes(result, name),
        ]
        lines.append(_line(cells))
    return lines


def _beside(result: AccuracyResult) -> dict[str, Callable[[str], float | None]]:
    """Titles of what stands beside the metrics, and how a method's number is found."""
    found: dict[str, Callable[[str], float | None]] = {}
    if any(result.macro_f1(name) is not None for name in result.methods()):
        found["macro F1"] = result.macro_f1
    for label in result.recalls():
        metric = f"{result.split}_recall of {label}"
        found[f"recall of {label}"] = partial(result.value, metric=metric)
    return found


def _of(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(result: AccuracyResult, method: str, metric: str) -> str:
    found = result.entry(method, f"{result.split}_{metric}")
    if found is None:
        return NOTHING
    if found["value"] is None:
        return result.reason(method, metric).partition(" (")[0] or "undefined"
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
