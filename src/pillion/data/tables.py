"""Columns of Parquet, CSV or JSON Lines files.

Promises the values of the asked columns as the files hold them (CSV: strings), or a DataError that
says where a file is broken. Does not know what a text or a label is.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pillion.data.files import DataFile, find_files
from pillion.errors import DataError

Columns = dict[str, list[Any]]
_Reader = Callable[[bytes, str, Sequence[str]], Columns]


@dataclass(frozen=True)
class Table:
    """Columns, and where they come from.

    Attributes:
        columns: values by the name of the column, of all files one after the other.
        sha256: hex digest of the file's bytes; of the files' digests where there are several.
        files: name and number of rows of every file, in order.
    """

    columns: Columns
    sha256: str
    files: tuple[tuple[str, int], ...]


def read_columns(source: str, names: Sequence[str]) -> Table:
    """The asked columns of the files of a source, by their suffixes.

    Args:
        source: a file, a folder of files, a pattern, or the URL of one of these; files are
            `.parquet`, `.csv`, `.jsonl`, `.ndjson` or `.json` (JSON: one object a line).
        names: columns that are wanted.

    Raises:
        DataError: a file that is missing, unknown, empty or broken, or lacks a column.
        ConfigError: a URL whose file system needs a package that is not installed.
    """
    files = find_files(source, _READERS)
    if len(files) == 1:
        columns, sha256, num_rows = _read_file(files[0], names)
        return Table(columns, sha256, ((files[0].name, num_rows),))
    table: Columns = {name: [] for name in names}
    digests: list[str] = []
    counts: list[tuple[str, int]] = []
    for file in files:
        columns, sha256, num_rows = _read_file(file, names, may_be_empty=True)
        for name in names:
            table[name] += columns[name]
        digests.append(sha256)
        counts.append((file.name, num_rows))
    return Table(table, hashlib.sha256("".join(digests).encode()).hexdigest(), tuple(counts))


def _read_file(
    file: DataFile, names: Sequence[str], may_be_empty: bool = False
) -> tuple[Columns, str, int]:
    """Columns of a file, the hash of its bytes, and its rows.

    Parallel writers leave an empty file where a part of theirs got no rows.
    """
    # Read once, so that the hash is of the very bytes that were parsed.
    data = file.read()
    sha256 = hashlib.sha256(data).hexdigest()
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        if may_be_empty:
            return {name: [] for name in names}, sha256, 0
        raise DataError(f"{file.name} is empty; give a file with a row for each text.")
    columns = _READERS[file.suffix](data, file.name, names)
    return columns, sha256, len(columns[names[0]])


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
