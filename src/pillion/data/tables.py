"""Columns of Parquet, CSV or JSON Lines files.

Promises the values of the chosen columns as the files hold them (CSV: strings), or a DataError that
says where a file is broken. Does not know what a text or a label is.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pillion.data.files import DataFile, find_files
from pillion.data.layout import TableLayout, check_columns
from pillion.data.text_files import Choose, FileColumns, read_csv, read_json_lines
from pillion.errors import DataError

_Reader = Callable[[bytes, str, Choose, TableLayout], FileColumns]


@dataclass(frozen=True)
class Table:
    """Columns, and where they come from.

    Attributes:
        columns: values by the name of the column, of all files one after the other.
        sha256: hex digest of the file's bytes; of the files' digests where there are several.
        files: name and number of rows of every file, in order.
        broken: place of a row (from 0) -> why it is none; its values are None.
        notes: what was guessed.
    """

    columns: dict[str, list[Any]]
    sha256: str
    files: tuple[tuple[str, int], ...]
    broken: dict[int, str] = field(default_factory=dict[int, str])
    notes: tuple[str, ...] = ()


def read_columns(source: str, choose: Choose, layout: TableLayout) -> Table:
    """The chosen columns of the files of a source, by their suffixes.

    Args:
        source: a file, a folder of files, a pattern, or the URL of one of these; files are
            `.parquet`, `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.json` (JSON: one object a line).
        choose: columns that are wanted of those in the first file; all others must have them too.
        layout: delimiter, encoding, and whether broken rows are set aside.

    Raises:
        DataError: a file that is missing, unknown, empty or broken, or lacks a column.
        ConfigError: a URL whose file system needs a package that is not installed.
    """
    files = find_files(source, _READERS)
    parts: list[tuple[DataFile, str, FileColumns]] = []
    for file in files:
        sha256, part = read_file(file, choose, layout, may_be_empty=len(files) > 1)
        parts.append((file, sha256, part))
        if part.columns:
            choose = _the_same(list(part.columns))
    digests = [sha256 for _, sha256, _ in parts]
    whole = hashlib.sha256("".join(digests).encode()).hexdigest()
    counts = tuple((file.name, part.num_rows) for file, _, part in parts)
    notes = tuple(note for _, _, part in parts for note in part.notes)
    columns, broken = _joined([part for _, _, part in parts])
    return Table(columns, whole if len(parts) > 1 else digests[0], counts, broken, notes)


def _the_same(names: list[str]) -> Choose:
    def choose(present: Iterable[str], source: str) -> list[str]:
        check_columns(list(present), names, source)
        return names

    return choose


def _joined(parts: list[FileColumns]) -> tuple[dict[str, list[Any]], dict[int, str]]:
    """Rows of all parts one after the other; an empty file has no columns at all."""
    names = next((list(part.columns) for part in parts if part.columns), [])
    columns = {
        name: [value for part in parts for value in part.columns.get(name, ())] for name in names
    }
    broken: dict[int, str] = {}
    start = 0
    for part in parts:
        broken |= {start + row: why for row, why in part.broken.items()}
        start += part.num_rows
    return columns, broken


def read_file(
    file: DataFile, choose: Choose, layout: TableLayout, may_be_empty: bool
) -> tuple[str, FileColumns]:
    """The hash of a file's bytes, and its columns.

    Parallel writers leave an empty file where a part of theirs got no rows.

    Args:
        file: to be read.
        choose: columns that are wanted.
        layout: delimiter, encoding, and whether broken rows are set aside.
        may_be_empty: whether a file without a byte has no rows.

    Raises:
        DataError: it cannot be read, or is broken or empty.
    """
    # Read once, so that the hash is of the very bytes that were parsed.
    data = file.read()
    sha256 = hashlib.sha256(data).hexdigest()
    if data.removeprefix(codecs.BOM_UTF8).strip():
        return sha256, _READERS[file.suffix](data, file.name, choose, layout)
    if not may_be_empty:
        raise DataError(f"{file.name} is empty; give a file with a row for each text.")
    return sha256, FileColumns({}, 0)


def _read_tsv(data: bytes, source: str, choose: Choose, layout: TableLayout) -> FileColumns:
    return read_csv(data, source, choose, replace(layout, delimiter=layout.delimiter or "\t"))


def _read_parquet(data: bytes, source: str, choose: Choose, layout: TableLayout) -> FileColumns:
    with readable_parquet(source):
        file = pq.ParquetFile(pa.BufferReader(data))
        names = choose(file.schema_arrow.names, source)
        table = file.read(columns=names)
    columns = {name: parquet_values(table.column(name), name, source) for name in names}
    return FileColumns(columns, table.num_rows)


@contextmanager
def readable_parquet(source: str) -> Generator[None]:
    """Turns what Arrow raises of a broken file into a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{source} is not a readable Parquet file ({_first_line(error)}); write it again."
        ) from error


def parquet_values(column: Iterable[Any], name: str, source: str, before: int = 0) -> list[Any]:
    """Arrow does not check strings when it reads them; Python does when it takes them.

    Args:
        column: its cells.
        name: of the column.
        source: what errors call the file.
        before: rows of the file before them.
    """
    values: list[Any] = []
    try:
        for scalar in column:
            values.append(scalar.as_py())
    except UnicodeDecodeError:
        raise DataError(
            f"{source} is not valid UTF-8 in column {name!r}, row {before + len(values) + 1}; "
            "write that text as UTF-8."
        ) from None
    return values


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


_READERS: dict[str, _Reader] = {
    ".parquet": _read_parquet,
    ".csv": read_csv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_lines,
    ".tsv": _read_tsv,
}

SUFFIXES = tuple(_READERS)
"""Of the files that can be read."""
