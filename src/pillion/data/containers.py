"""What Python users hold texts and labels in, as plain lists of cells.

Promises an order and one cell a row, or a sentence. Knows the containers by what they can do, and
imports none of the libraries that they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, cast

import numpy as np

from pillion.errors import DataError


def text_cells(values: Any) -> list[Any]:
    """Texts or conversations, one a row.

    Raises:
        DataError: something without order or rows, or a table of several columns.
    """
    columns = _columns(values)
    if columns is None:
        return _cells(values, "texts")
    if len(columns) != 1:
        raise DataError(
            f"Got a table of {len(columns)} columns ({_listed(list(columns))}) where texts are "
            "meant; give one of its columns."
        )
    return next(iter(columns.values()))


def label_cells(values: Any) -> list[Any]:
    """Labels, one a row; of a table of several columns a mapping a row.

    Raises:
        DataError: something without order or rows.
    """
    columns = _columns(values)
    if columns is None:
        return _cells(values, "labels")
    if len(columns) == 1:
        return next(iter(columns.values()))
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _columns(values: Any) -> dict[str, list[Any]] | None:
    """The columns of a table by their names; None for what has one dimension."""
    if hasattr(values, "columns") and hasattr(values, "shape") and len(values.shape) == 2:
        names = [str(name) for name in getattr(values, "column_names", values.columns)]
        if len(set(names)) < len(names):
            raise DataError(f"Got a table with a column twice ({_listed(names)}); rename it.")
        return {
            name: _cells(values.iloc[:, place] if hasattr(values, "iloc") else values[name], name)
            for place, name in enumerate(names)
        }
    if hasattr(values, "toarray"):  # sparse matrices of scipy
        values = values.toarray()
    if isinstance(values, np.ndarray) and values.ndim == 2:
        rows = cast("np.ndarray", values)
        return {f"label_{place}": _cells(rows[:, place], "it") for place in range(rows.shape[1])}
    return None


def _cells(values: Any, what: str) -> list[Any]:
    """A list of Python's own values, tuples and arrays among them as lists."""
    for method in ("to_pylist", "tolist", "to_list"):
        if hasattr(values, method):
            values = getattr(values, method)()
            break
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        kind = "one string" if isinstance(values, str) else f"one {type(values).__name__}"
        raise DataError(f"Got {kind} where {what} are meant; give a list.")
    if isinstance(values, Mapping | Set):
        kind = type(values).__name__
        raise DataError(f"Got a {kind}, which has no order, where {what} are meant; give a list.")
    return [_plain(item) for item in cast("Iterable[Any]", values)]


def _plain(item: Any) -> Any:
    """One cell as Python's own value; the missing values of pandas are None."""
    if isinstance(item, np.generic):
        return item.item()
    if type(item).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(item, list | tuple | np.ndarray):
        return [_plain(one) for one in cast("Iterable[Any]", item)]
    return item


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
