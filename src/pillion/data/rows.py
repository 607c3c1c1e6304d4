"""Texts and labels of data files.

Promises that every text is a string with something in it and every label a name (or names), or a
DataError with the row. Does not know what the labels mean or how they are split.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import numpy as np

from pillion.core import FailedRow
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
    """The texts of data files and, where asked for, their labels.

    Attributes:
        texts: one string a row, none of them blank.
        labels: one a row, a tuple of names where the file holds lists; None where not asked for.
        sha256: hex digest of the file's bytes, or of the digests of several files.
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


@dataclass(frozen=True)
class Texts:
    """The texts of data files, those that cannot be used left out but not forgotten.

    Attributes:
        texts: one a row, None where it cannot be used.
        failed: the rows that cannot be used, in order.
        files: name and number of rows of every file, in order.
        path: where the rows came from.
    """

    texts: tuple[str | None, ...]
    failed: tuple[FailedRow, ...]
    files: tuple[tuple[str, int], ...]
    path: str

    def __len__(self) -> int:
        return len(self.texts)

    def place(self, row: int) -> tuple[str, int]:
        """The file of a row (from 1) and the row's number in that file (from 1)."""
        for name, start, stop in _parts(self.files):
            if row <= stop:
                return name, row - start
        raise IndexError(f"There is no row {row} in {self.path}.")


def read_rows(
    path: str | os.PathLike[str], text_column: str = "text", label_column: str | None = "label"
) -> Rows:
    """The rows of Parquet, CSV or JSON Lines files (by suffix), or of a data set on the hub.

    Args:
        path: a `.parquet`, `.csv`, `.jsonl`, `.ndjson` or `.json` file, a folder of such files, a
            pattern (`rows/*.csv`), a URL of one of these (`s3://...`), or `hf:NAME[:SPLIT]`.
        text_column: column of the texts.
        label_column: column of the labels, strings, numbers, booleans (the latter two become their
            `str`) or lists of them; None to read texts alone.

    Raises:
        DataError: a file, text or label that cannot be used, with what was wanted instead.
        ConfigError: a data set on the hub without the `datasets` package, or a URL whose file
            system needs a package that is not installed.
    """
    source = os.fspath(path)
    table = _table(source, [text_column, *([label_column] if label_column else [])])
    for name, start, stop in _parts(table.files):
        _check_texts(table.columns[text_column][start:stop], name)
        if label_column is not None:
            _check_labels(table.columns[label_column][start:stop], name)
    labels = None if label_column is None else _labels(table.columns[label_column], source)
    return Rows(tuple(table.columns[text_column]), labels, table.sha256, source)


def read_texts(path: str | os.PathLike[str], text_column: str = "text") -> Texts:
    """The texts of the same sources as `read_rows`; a text that cannot be used fails by itself.

    Raises:
        DataError: a file that cannot be used, or not a single usable text.
        ConfigError: a package that is missing; see `read_rows`.
    """
    source = os.fspath(path)
    table = _table(source, [text_column])
    values = table.columns[text_column]
    reasons = [_reason(value) for value in values]
    texts = tuple(None if why else value for value, why in zip(values, reasons, strict=True))
    failed = tuple(FailedRow(row, why) for row, why in enumerate(reasons, 1) if why)
    if len(failed) == len(values):
        _check_texts(values, source)
    return Texts(texts, failed, table.files, source)


def _table(source: str, names: list[str]) -> tables.Table:
    part = hub if source.startswith(hub.PREFIX) else tables
    table = part.read_columns(source, names)
    if not table.columns[names[0]]:
        raise DataError(f"{source} has columns but no rows; give a file with a row for each text.")
    return table


def _parts(files: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Name, first row and end of each file among all rows."""
    stops = accumulate(num_rows for _, num_rows in files)
    for (name, num_rows), stop in zip(files, stops, strict=True):
        yield name, stop - num_rows, stop


def _plain(values: Any) -> list[Any]:
    """Values of a list, an array or a series as Python's own, tuples as lists."""
    items = values.tolist() if hasattr(values, "tolist") else list(values)
    items = [item.item() if isinstance(item, np.generic) else item for item in items]
    return [_plain(item) if isinstance(item, tuple | np.ndarray) else item for item in items]


def _check_texts(texts: Sequence[Any], source: str) -> None:
    for is_bad, what, remedy in _BAD_TEXTS:
        _refuse(texts, is_bad, what, remedy.format("them"), source)


def _reason(text: Any) -> str:
    """Why a text cannot be used; empty if it can."""
    found = next((bad for bad in _BAD_TEXTS if bad[0](text)), None)
    return f"{found[1]}; {found[2].format('it')}" if found else ""


def _labels(values: Sequence[Any], source: str) -> tuple[Label, ...]:
    _check_labels(values, source)
    _check_kinds([(row, value) for row, value in enumerate(values, 1)], source)
    items = [(row, item) for row, value in enumerate(values, 1) for item in _items(value)]
    _check_kinds(items, source)
    return tuple(
        tuple(str(item) for item in _items(value)) if isinstance(value, list) else str(value)
        for value in values
    )


def _check_labels(values: Sequence[Any], source: str) -> None:
    _refuse(values, _lacks_label, "an empty or null label", "fill or remove them", source)
    _refuse(values, _has_no_kind, "a label that is no name", f"wanted {_WANTED}", source)


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


_BAD_TEXTS: tuple[tuple[Callable[[Any], bool], str, str], ...] = (
    (_is_blank, "an empty or null text", "fill or remove {}"),
    (_is_no_string, "a text that is not a string", "write {} as a string"),
    (_is_broken, "a text with half a surrogate pair", "repair {}"),
)
"""What a text may not be, in words, and what to do about it."""
