"""The section of a study of what a probe owes to chance, length and wording: tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pillion.metrics import leading_metric
from pillion.report.charts import SERIES, Line, line_chart
from pillion.report.tables import facts

Entries = Sequence[Mapping[str, Any]]

MAX_LINES = len(SERIES)
WIDE = 6.0
TITLES = {
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "f1": "F1",
    "fpr": "FPR",
    "recall": "Recall",
    "accuracy": "Accuracy",
    "ece": "ECE",
}


def real_section(content: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `real.html.j2`.

    Args:
        content: of the result file, as `pillion bench real` makes it.
    """
    results, binary = content["results"], content["task"] == "binary"
    lead = leading_metric(content["task"])
    methods = [one["method"] for one in content["settings"]["methods"]]
    return {
        "title": f"Is it real? {content['name'].removeprefix('real-')}",
        "task": content["task"],
        "rows": content["settings"]["rows"],
        "facts": facts(content),
        "own_rows": content["data"][0]["sha256"] == content["data"][1]["sha256"],
        "methods": methods,
        "lead": TITLES[lead],
        "sets": [_set(results, name, methods, lead) for name in _names(results, ("test", "other"))],
        "groups": [
            _groups(results, name, methods)
            for name in _names(results, ("other",))
            if any(one["set"] == name and "group" in one for one in results)
        ],
        "perturbations": _changes(results, methods, lead),
        "long": _long(results, methods) if binary else [],
        "curve": _curve(results, methods, lead),
        "duplicates": content["duplicates"],
        "without_duplicates": _cells(
            [one for one in results if one["step"] == "duplicates"], methods, lead
        ),
    }


def _names(results: Entries, steps: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(one["set"] for one in results if one["step"] in steps))


def _cells(entries: Entries, methods: Sequence[str], metric: str) -> list[Mapping[str, Any] | None]:
    """The entry of each method; None where there is none."""
    found = {
        one["method"]: one
        for one in entries
        if one["metric"] == metric and "group" not in one and "train_rows" not in one
    }
    return [found.get(method) for method in methods]


def _set(results: Entries, name: str, methods: Sequence[str], lead: str) -> dict[str, Any]:
    """A table: a row a method, its metrics, and what the probe has over it."""
    own = [one for one in results if one["set"] == name and one["step"] in ("test", "other")]
    shown = [metric for metric in TITLES if any(one["metric"] == metric for one in own)]
    cells = {metric: _cells(own, methods, metric) for metric in shown}
    over = {one["baseline"]: one for one in own if one["metric"] == f"{lead}_minus"}
    first = next(one for one in cells[shown[0]] if one is not None)
    return {
        "name": name,
        "count": first["rows"],
        "positives": first.get("positives"),
        "metrics": [TITLES[metric] for metric in shown],
        "rows": [
            {
                "method": method,
                "cells": [cells[metric][place] for metric in shown],
                "over": over.get(method),
            }
            for place, method in enumerate(methods)
        ],
    }


def _groups(results: Entries, name: str, methods: Sequence[str]) -> dict[str, Any]:
    """Share decided positive (else share right) of every group, by method."""
    own = [one for one in results if one["set"] == name and "group" in one]
    is_binary = any(one["metric"] == "decided_positive" for one in own)
    metric = "decided_positive" if is_binary else "accuracy"
    found = {(one["group"], one["method"]): one for one in own if one["metric"] == metric}
    names = list(dict.fromkeys(group for group, _ in found))
    return {
        "name": name,
        "what": "Share decided positive" if is_binary else "Share decided right",
        "rows": [
            {
                "group": group,
                "count": found[group, methods[0]]["rows"],
                "wanted": found[group, methods[0]].get("labelled_positive"),
                "cells": [found.get((group, method)) for method in methods],
            }
            for group in names
        ],
    }


def _changes(results: Entries, methods: Sequence[str], lead: str) -> list[dict[str, Any]]:
    """Of each way to change a text: the leading metric, and the decisions that were turned over."""
    found: list[dict[str, Any]] = []
    for name in _names(results, ("perturbation",)):
        own = [one for one in results if one["set"] == name and one["step"] == "perturbation"]
        cells = _cells(own, methods, lead)
        turned = _cells(own, methods, "decisions_changed")
        found.append({"name": name, "cells": list(zip(cells, turned, strict=True))})
    return found


def _long(results: Entries, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Of each length: AUROC, and where in the text the needle is found."""
    found: list[dict[str, Any]] = []
    for name in _names(results, ("long",)):
        own = [one for one in results if one["set"] == name and one["step"] == "long"]
        places = {
            (one["group"], one["method"]): one["value"]
            for one in own
            if one.get("group") and one["metric"] == "decided_positive"
        }
        auroc = _cells(own, methods, "auroc")
        found.append(
            {
                "name": name,
                "rows": [
                    {
                        "method": method,
                        "auroc": auroc[place],
                        "places": [
                            places.get((where, method))
                            for where in ("start", "middle", "end", "without")
                        ],
                    }
                    for place, method in enumerate(methods)
                ],
            }
        )
    return found


def _curve(results: Entries, order: Sequence[str], lead: str) -> dict[str, Any] | None:
    """A line a head over the number of training rows, and the same as a table."""
    own = [one for one in results if one["step"] == "curve"]
    if not own:
        return None
    known_methods = {one["method"] for one in own}
    methods = [method for method in order if method in known_methods]
    sizes = sorted({one["train_rows"] for one in own})
    at = {(one["method"], one["train_rows"]): one for one in own}
    lines: list[Line] = []
    for series, method in enumerate(methods[:MAX_LINES]):
        known = [at[method, size] for size in sizes if (method, size) in at]
        known = [one for one in known if one["value"] is not None]
        points = [(float(one["train_rows"]), one["value"]) for one in known]
        band = [(min(one["per_seed"]), max(one["per_seed"])) for one in known]
        lines.append(Line(points, series, dots=True, band=band))
    svg = line_chart(
        lines,
        "training rows",
        "AUPRC on the test" if lead == "auprc" else "accuracy on the test",
        unit=False,
        log_x=True,
        width=WIDE,
    )
    return {
        "svg": svg,
        "methods": methods,
        "sizes": sizes,
        "rows": [[at.get((method, size)) for size in sizes] for method in methods],
    }
