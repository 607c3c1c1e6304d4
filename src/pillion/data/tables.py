"""Columns of a Parquet, CSV or JSON Lines file.

Promises the values of the asked columns as the file holds them (CSV: strings), or a DataError that
says where the file is broken. Does not know what a text or a label is.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pillion.errors import DataError

Columns = dict[str, list[Any]]
_Reader = Callable[[bytes, str, Sequence[str]], Columns]


def read_columns(source: str, names: Sequence[str]) -> tuple[Columns, str]:
    """The asked columns of a file by its suffix, and the SHA-256 (hex) of its bytes.

    Args:
        source: path of a `.parquet`, `.csv`, `.jsonl`, `.ndjson` or `.json` file (JSON: one object
            a line).
        names: columns that are wanted.

    Raises:
        DataError: a file that is missing, unknown, empty or broken, or lacks a column.
    """
    suffix = Path(source).suffix.lower()
    if suffix not in _READERS:
        raise DataError(
            f"{source} ends in {suffix!r}, which is no known kind of file; "
            f"give one of: {', '.join(_READERS)}."
        )
    # Read once, so that the hash is of the very bytes that were parsed.
    data = _read_bytes(source)
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{source} is empty; give a file with a row for each text.")
    return _READERS[suffix](data, source, names), hashlib.sha256(data).hexdigest()


def check_columns(present: Sequence[str], names: Sequence[str], source: str) -> None:
    """Refuses a table in which an asked column is missing or there twice.

    Args:
        present: columns of the table.
        names: columns that are wanted.
        source: what the error calls the table.

    Raises:
        DataError: naming the column, the columns present and the nearest one.
    """
    for name in names:
        if name not in present:
            raise _missing_column(present, name, source)
        if list(present).count(name) > 1:
            raise DataError(
                f"{source} has more than one column named {name!r}; rename all but one."
            )


def _missing_column(present: Sequence[str], name: str, source: str) -> DataError:
    known = ", ".join(repr(column) for column in present) or "none"
    near = difflib.get_close_matches(name, present, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return DataError(
        f"{source} has no column {name!r}; its columns are: {known}. Name one of them.{hint}"
    )


def _read_bytes(source: str) -> bytes:
    try:
        return Path(source).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{source} does not exist; give the path of a data file.") from None
    except OSError as error:
        raise DataError(
            f"{source} cannot be read ({error.strerror}); give the path of a readable data file."
        ) from error


def _decode(data: bytes, source: str) -> str:
    try:
        # A byte order mark, which spreadsheets write, is no part of the first column's name.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind the mark.
        offset = error.start + len(data) - len(error.object)
        line = data.count(b"\n", 0, offset) + 1
        raise DataError(
            f"{source} is not valid UTF-8 at line {line} (byte offset {offset}); save it as UTF-8."
        ) from None


def _read_parquet(data: bytes, source: str, names: Sequence[str]) -> Columns:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        check_columns(file.schema_arrow.names, names, source)
        table = file.read(columns=list(names))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{source} is not a readable Parquet file ({_first_line(error)}); write it again."
        ) from error
    return {name: _parquet_values(table.column(name), name, source) for name in names}


def _parquet_values(column: Iterable[Any], name: str, source: str) -> list[Any]:
    """Arrow does not check strings when it reads them; Python does when it takes them."""
    values: list[Any] = []
    try:
        for scalar in column:
            values.append(scalar.as_py())
    except UnicodeDecodeError:
        raise DataError(
            f"{source} is not valid UTF-8 in column {name!r}, row {len(values) + 1}; "
            "write that text as UTF-8."
        ) from None
    return values


def _read_csv(data: bytes, source: str, names: Sequence[str]) -> Columns:
    lines = _csv_lines(_decode(data, source), source)
    header_line, header = next(lines)
    check_columns(header, names, source)
    places = {name: header.index(name) for name in names}
    columns: Columns = {name: [] for name in names}
    for line, fields in lines:
        if len(fields) != len(header):
            raise DataError(
                f"{source} has {len(fields)} fields at line {line}, but {len(header)} columns in "
                f"its header (line {header_line}); put quotes around a field that holds a comma."
            )
        for name, place in places.items():
            columns[name].append(fields[place])
    return columns


def _csv_lines(text: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is not blank, with the number of the line where they start."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    while True:
        # The module's limit is for the whole process and below the length of a long document.
        limit = csv.field_size_limit(len(text) + 1)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{source} is not valid CSV at line {line} ({error}); check its quotes."
            ) from error
        finally:
            csv.field_size_limit(limit)
        if fields is None:
            return
        if fields:
            yield line, fields
        line = reader.line_num + 1


def _read_json_lines(data: bytes, source: str, names: Sequence[str]) -> Columns:
    # Split at line feeds alone: strings in JSON may hold other line separators, such as U+2028.
    lines = _decode(data, source).split("\n")
    objects = [
        _json_object(line, number, source)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    present = list(dict.fromkeys(name for row in objects for name in row))
    check_columns(present, names, source)
    return {name: [row.get(name) for row in objects] for name in names}


def _json_object(line: str, number: int, source: str) -> dict[str, Any]:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{source} is not valid JSON at line {number} ({error}); write one object a line, "
            'such as {"text": "...", "label": "..."}.'
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"{source} has no JSON object at line {number}, but a {type(value).__name__}; "
            'write one object a line, such as {"text": "...", "label": "..."}.'
        )
    return cast("dict[str, Any]", value)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


_READERS: dict[str, _Reader] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json_lines,
}
