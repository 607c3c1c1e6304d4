"""Columns of CSV and JSON Lines files.

Promises the values as they are written, with the lines that are no rows set aside or refused by
number. Does not know what a text or a label is.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pillion.data.encodings import decode
from pillion.data.layout import TableLayout
from pillion.errors import DataError

Choose = Callable[[Sequence[str], str], list[str]]
"""Names of the columns to read, from those that are present and the name of the table."""

DELIMITERS = (",", ";", "\t", "|")
"""Those that are tried on a header, the first that shows the wanted columns is taken."""

MOST_HEADER = 2**24
"""Characters of a column's name at most, while delimiters are tried."""


@dataclass
class FileColumns:
    """What one file gives.

    Attributes:
        columns: values by the name of the column.
        num_rows: how many.
        broken: place of a row (from 0) -> why it is none; its values are None.
        notes: what was guessed.
    """

    columns: dict[str, list[Any]]
    num_rows: int
    broken: dict[int, str] = field(default_factory=dict[int, str])
    notes: list[str] = field(default_factory=list[str])


def read_csv(data: bytes, source: str, choose: Choose, layout: TableLayout) -> FileColumns:
    """The chosen columns of a CSV file, as strings."""
    text, note = decode(data, source, layout.encoding)

    def lines() -> Iterable[str]:
        return io.StringIO(text, newline="")

    delimiter, guessed = find_delimiter(lines, source, choose, layout.delimiter)
    rows = csv_rows(lines(), source, delimiter, len(text))
    header_line, fields = next(rows)
    header = Header(tuple(fields), header_line, delimiter)
    part = csv_part(rows, source, header, choose(fields, source), layout.skip_bad_rows)
    part.notes = [one for one in (note, guessed) if one]
    return part


@dataclass(frozen=True)
class Header:
    """The first line of a CSV file.

    Attributes:
        names: of all columns, in order.
        line: its number, from 1.
        delimiter: between fields.
    """

    names: tuple[str, ...]
    line: int
    delimiter: str


def csv_part(
    rows: Iterable[tuple[int, list[str]]], source: str, header: Header, names: list[str], skip: bool
) -> FileColumns:
    """The chosen columns of rows of `csv_rows` behind a header.

    Args:
        rows: number of the line where each begins, and its fields.
        source: what errors call the file.
        header: of the file.
        names: columns that are wanted.
        skip: whether rows of another number of fields are set aside.

    Raises:
        DataError: such a row, where it is not.
    """
    places = {name: header.names.index(name) for name in names}
    part = FileColumns({name: [] for name in names}, 0)
    for line, fields in rows:
        found: list[str] | None = fields
        if len(fields) != len(header.names):
            why = (
                f"has {len(fields)} fields at line {line}, but {len(header.names)} columns in its "
                f"header (line {header.line}); put quotes around a field that holds a comma"
            )
            _set_aside(part, source, why, skip)
            found = None
        for name, place in places.items():
            part.columns[name].append(None if found is None else found[place])
        part.num_rows += 1
    return part


def _set_aside(part: FileColumns, source: str, why: str, skip: bool) -> None:
    if not skip:
        raise DataError(f"{source} {why}.")
    part.broken[part.num_rows] = f"the file {why}"


def find_delimiter(
    lines: Callable[[], Iterable[str]], source: str, choose: Choose, given: str | None
) -> tuple[str, str]:
    """What stands between the fields, and a note where it is not a comma and was guessed.

    Args:
        lines: the file's, from its beginning at each call.
        source: what errors call the file.
        choose: the wanted columns of a header; raises where they are missing.
        given: what was asked for.
    """
    if given is not None:
        return given, ""
    for delimiter in DELIMITERS:
        try:
            _, header = next(csv_rows(lines(), source, delimiter, MOST_HEADER))
            choose(header, source)
        except DataError:
            continue
        if delimiter == ",":
            return delimiter, ""
        return delimiter, f"{source} is read with {delimiter!r} between its fields."
    return ",", ""


def csv_rows(
    lines: Iterable[str], source: str, delimiter: str, longest: int, first_line: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is not blank, with the number of the line where they start.

    Args:
        lines: with their ends.
        source: what errors call the file.
        delimiter: between the fields.
        longest: no field has more characters.
        first_line: number of the first of these lines.

    Raises:
        DataError: quotes that do not fit, with their line.
    """
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    line = first_line
    while True:
        # The module's limit is for the whole process and below the length of a long document.
        limit = csv.field_size_limit(longest + 1)
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
        line = first_line + reader.line_num


def read_json_lines(data: bytes, source: str, choose: Choose, layout: TableLayout) -> FileColumns:
    """The chosen values of a file with one JSON object a line."""
    text, note = decode(data, source, layout.encoding, may_guess=False)
    # Split at line feeds alone: strings in JSON may hold other line separators, such as U+2028.
    part = FileColumns({}, 0, notes=[note] if note else [])
    objects = list(json_rows(text.split("\n"), source, part, layout.skip_bad_rows))
    present = list(dict.fromkeys(name for row in objects for name in row))
    part.columns = json_columns(objects, choose(present, source))
    return part


def json_rows(
    lines: Iterable[str], source: str, part: FileColumns, skip: bool, first_line: int = 1
) -> Iterator[dict[str, Any]]:
    """The object of each line that is not blank; of a broken one an empty object.

    Args:
        lines: of the file.
        source: what errors call the file.
        part: its rows are counted, and those that are broken set aside.
        skip: whether they are set aside.
        first_line: number of the first of these lines.

    Raises:
        DataError: a broken line, where it is not set aside.
    """
    for number, line in enumerate(lines, start=first_line):
        if not line.strip():
            continue
        row: dict[str, Any] = {}
        try:
            row = _json_object(line, number)
        except ValueError as error:
            _set_aside(part, source, str(error), skip)
        part.num_rows += 1
        yield row


def json_columns(objects: Sequence[dict[str, Any]], names: list[str]) -> dict[str, list[Any]]:
    """Values by the name of the column; None where an object has none."""
    return {name: [row.get(name) for row in objects] for name in names}


def _json_object(line: str, number: int) -> dict[str, Any]:
    """The object of a line.

    Raises:
        ValueError: what is there instead.
    """
    example = 'write one object a line, such as {"text": "...", "label": "..."}'
    try:
        value: object = json.loads(line)
    except json.JSONDecodeError as error:
        where = f"line {number}, column {error.colno} ({error.msg})"
        raise ValueError(f"is not valid JSON at {where}; {example}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON at line {number} ({error}); {example}") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ValueError(f"has no JSON object at line {number}, but a {kind}; {example}")
    return cast("dict[str, Any]", value)
