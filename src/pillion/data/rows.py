"""Texts and labels of a data file.

Promises that every text is a string with something in it and every label a name (or names), or a
DataError with the row. Does not know what the labels mean or how they are split.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pillion.data import hub, tables
from pillion.errors import DataError

Label = str | tuple[str, ...]

# By exact type: a boolean is no number here, and 1 and 1.0 would become two different names.
_KINDS: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "a whole number",
    float: "a decimal number",
    list: "a list",
}


@dataclass(frozen=True)
class Rows:
    """The texts of a file and, where asked for, their labels.

    Attributes:
        texts: one string a row, none of them blank.
        labels: one a row, a tuple of names where the file holds lists; None where not asked for.
        sha256: hex digest of the file's bytes.
        path: where the rows came from.
    """

    texts: tuple[str, ...]
    labels: tuple[Label, ...] | None
    sha256: str
    path: str

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, texts: Sequence[Any], labels: Sequence[Any] | None, source: str) -> Rows:
        """Rows of texts and labels in memory, checked as those of a file are.

        Args:
            texts: strings.
            labels: one a text, as in `read_rows`; tuples count as lists. None for texts alone.
            source: what errors call them.

        Raises:
            DataError: a text or label that cannot be used, naming its row (from 1).
        """
        if labels is not None and len(texts) != len(labels):
            raise DataError(f"Got {len(texts)} texts and {len(labels)} labels; give one a text.")
        if not len(texts):
            raise DataError(f"{source} has no rows; give one or more texts.")
        texts = _plain(texts)
        _check_texts(texts, source)
        named = None if labels is None else _labels(_plain(labels), source)
        content = json.dumps([texts, named], ensure_ascii=False)
        digest = hashlib.sha256(content.encode()).hexdigest()
        return cls(tuple(texts), named, digest, source)


def read_rows(
    path: str | os.PathLike[str], text_column: str = "text", label_column: str | None = "label"
) -> Rows:
    """The rows of a Parquet, CSV or JSON Lines file (by its suffix), or of a data set on the hub.

    Args:
        path: a `.parquet`, `.csv`, `.jsonl`, `.ndjson` or `.json` file, or `hf:NAME[:SPLIT]`.
        text_column: column of the texts.
        label_column: column of the labels, strings, numbers, booleans (the latter two become their
            `str`) or lists of them; None to read texts alone.

    Raises:
        DataError: a file, text or label that cannot be used, with what was wanted instead.
        ConfigError: a data set on the hub without the `datasets` package.
    """
    source = os.fspath(path)
    part = hub if source.startswith(hub.PREFIX) else tables
    names = [text_column] if label_column is None else [text_column, label_column]
    columns, sha256 = part.read_columns(source, names)
    if not columns[text_column]:
        raise DataError(f"{source} has columns but no rows; give a file with a row for each text.")
    _check_texts(columns[text_column], source)
    labels = None if label_column is None else _labels(columns[label_column], source)
    return Rows(tuple(columns[text_column]), labels, sha256, source)


def _plain(values: Any) -> list[Any]:
    """Values of a list, an array or a series as Python's own, tuples as lists."""
    items = values.tolist() if hasattr(values, "tolist") else list(values)
    items = [item.item() if isinstance(item, np.generic) else item for item in items]
    return [_plain(item) if isinstance(item, tuple | np.ndarray) else item for item in items]


def _check_texts(texts: Sequence[Any], source: str) -> None:
    _refuse(texts, _is_blank, "an empty or null text", "fill or remove them", source)
    _refuse(texts, _is_no_string, "a text that is not a string", "write them as strings", source)
    _refuse(texts, _is_broken, "a text with half a surrogate pair", "repair them", source)


def _labels(values: Sequence[Any], source: str) -> tuple[Label, ...]:
    _refuse(values, _lacks_label, "an empty or null label", "fill or remove them", source)
    _refuse(values, _has_no_kind, "a label that is no name", f"wanted {_WANTED}", source)
    _check_kinds([(row, value) for row, value in enumerate(values, 1)], source)
    items = [(row, item) for row, value in enumerate(values, 1) for item in _items(value)]
    _check_kinds(items, source)
    return tuple(
        tuple(str(item) for item in _items(value)) if isinstance(value, list) else str(value)
        for value in values
    )


_WANTED = "strings, numbers, booleans or lists of them"


def _refuse(
    values: Sequence[Any], is_bad: Callable[[Any], bool], what: str, remedy: str, source: str
) -> None:
    """Raises for rows that are bad, with the first (from 1), its value and how many there are."""
    rows = [row for row, value in enumerate(values, 1) if is_bad(value)]
    if rows:
        shown = _shortened(values[rows[0] - 1])
        raise DataError(
            f"{source} has {what} in {len(rows)} of {len(values)} rows, first in row {rows[0]} "
            f"({shown}); {remedy}."
        )


def _check_kinds(numbered: Sequence[tuple[int, Any]], source: str) -> None:
    """Raises where the values, each with the number of its row, are of more than one kind."""
    first_rows: dict[type, int] = {}
    for row, value in numbered:
        first_rows.setdefault(type(value), row)
    if len(first_rows) > 1:
        found = " and ".join(f"{_KINDS[kind]} in row {row}" for kind, row in first_rows.items())
        raise DataError(f"{source} mixes kinds of labels ({found}); write all of them alike.")


def _items(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_no_string(value: Any) -> bool:
    return not isinstance(value, str)


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _lacks_label(value: Any) -> bool:
    # NaN, the only value that differs from itself, is how some writers put a null among numbers.
    return any(_is_blank(item) or item != item for item in _items(value))


def _has_no_kind(value: Any) -> bool:
    return any(type(item) not in _KINDS or isinstance(item, list) for item in _items(value))


def _shortened(value: Any, num_characters: int = 40) -> str:
    shown = repr(value)
    return shown if len(shown) <= num_characters else f"{shown[:num_characters]}..."
