"""Columns of a data set on the hub, through the `datasets` package where it is installed.

Promises the same columns as a file would give, with names for the ids of a class column.
Does not know what a text or a label is.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from typing import Any

from pillion.data.layout import TableLayout
from pillion.data.tables import Table
from pillion.data.text_files import Choose
from pillion.errors import ConfigError, DataError

PREFIX = "hf:"


def read_columns(source: str, choose: Choose, layout: TableLayout) -> Table:
    """The chosen columns of `hf:NAME` or `hf:NAME:SPLIT` (`train` by default).

    A data set has no single file, so the hash is of the chosen columns written as JSON.

    Args:
        source: name of the data set.
        choose: columns that are wanted of those that are there.
        layout: says nothing of a data set.

    Raises:
        ConfigError: `datasets` is not installed.
        DataError: a data set or split that cannot be loaded, or a column that is missing.
    """
    data = _load(source)
    names = choose(list(data.column_names), source)
    columns = {name: _values(data, name) for name in names}
    written = json.dumps(columns, sort_keys=True, default=str).encode()
    num_rows = len(columns[names[0]])
    return Table(columns, hashlib.sha256(written).hexdigest(), ((source, num_rows),))


def _load(source: str) -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise ConfigError(
            f"{source} is on the hub, which needs the datasets package; "
            "install pillion[data], or give a file."
        ) from None
    name, _, split = source.removeprefix(PREFIX).partition(":")
    try:
        return datasets.load_dataset(name, split=split or "train")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{source} cannot be loaded from the hub ({error}); "
            "check its name and split, or give a file."
        ) from error


def _values(data: Any, name: str) -> list[Any]:
    """The column as a list, where the ids of a class column become its names (-1: no label)."""
    values = list(data[name])
    names = getattr(data.features[name], "names", None)
    if names is None:
        return values
    return [None if value is None or value < 0 else names[value] for value in values]
