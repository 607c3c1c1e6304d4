"""A plain table of any result file: its scalars, one row an entry of `results`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_ROWS = 200


def table_section(content: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `table.html.j2`: facts of the file, and its results as columns and rows."""
    entries = [entry for entry in content["results"] if isinstance(entry, dict)]
    flat = [dict(_flattened(entry)) for entry in entries]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    return {
        "facts": facts(content),
        "columns": columns,
        "rows": [[row.get(name, "") for name in columns] for row in flat[:MAX_ROWS]],
        "left_out": max(len(flat) - MAX_ROWS, 0),
    }


def facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name, day, machine, versions, data and seed of a result file, as far as it has them."""
    found: list[tuple[str, str]] = []
    for name in ("name", "date", "seed"):
        if name in content:
            found.append((name, str(content[name])))
    for name in ("machine", "versions"):
        if isinstance(content.get(name), dict):
            found.append((name, ", ".join(f"{k} {v}" for k, v in content[name].items())))
    for entry in content.get("data") or []:
        if isinstance(entry, dict):
            shown = {**entry, "sha256": str(entry.get("sha256", ""))[:12]}
            found.append(("data", ", ".join(f"{k} {v}" for k, v in shown.items())))
    return found


def _flattened(entry: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Scalars, those one level down with their path, and short lists of numbers."""
    found: list[tuple[str, Any]] = []
    for name, value in entry.items():
        if isinstance(value, dict) and not prefix:
            found += _flattened(value, f"{name}.")
        elif isinstance(value, list):
            if len(value) <= 4 and all(isinstance(v, int | float) for v in value):
                found.append((prefix + name, " to ".join(map(_shown, value))))
        elif not isinstance(value, dict):
            found.append((prefix + name, value))
    return found


def _shown(value: float | int) -> str:
    """Four digits, and all of a whole or large number: none is written as a power of ten."""
    whole = isinstance(value, int) or abs(value) >= 10_000
    return f"{value:,.0f}" if whole else f"{value:.4g}"
