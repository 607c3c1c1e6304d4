"""Columns of CSV and JSON Lines files.

Promises the values as they are written, with the lines that are no rows set aside or refused by
number. Does not know what a text or a label is.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pillion.data.encodings import decode
from pillion.data.layout import TableLayout
from pillion.errors import DataError

Choose = Callable[[Sequence[str], str], list[str]]
"""Names of the columns to read, from those that are present and the name of the table."""

DELIMITERS = (",", ";", "\t", "|")
"""Those that are tried on a header, the first that shows the wanted columns is taken."""


@dataclass
class Part:
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


def read_csv(data: bytes, source: str, choose: Choose, layout: TableLayout) -> Part:
    """The chosen columns of a CSV file, as strings."""
    text, note = decode(data, source, layout.encoding)
    delimiter, guessed = _delimiter(text, source, choose, layout.delimiter)
    lines = _csv_lines(text, source, delimiter)
    header_line, header = next(lines)
    names = choose(header, source)
    places = {name: header.index(name) for name in names}
    part = Part({name: [] for name in names}, 0, notes=[n for n in (note, guessed) if n])
    for line, fields in lines:
        if len(fields) != len(header):
            why = (
                f"has {len(fields)} fields at line {line}, but {len(header)} columns in its "
                f"header (line {header_line}); put quotes around a field that holds a comma"
            )
            _set_aside(part, source, why, layout.skip_bad_rows)
            fields = None
        for name, place in places.items():
            part.columns[name].append(None if fields is None else fields[place])
        part.num_rows += 1
    return part


def _set_aside(part: Part, source: str, why: str, skip: bool) -> None:
    if not skip:
        raise DataError(f"{source} {why}.")
    part.broken[part.num_rows] = f"the file {why}"


def _delimiter(text: str, source: str, choose: Choose, given: str | None) -> tuple[str, str]:
    """What stands between the fields, and a note where it is not a comma and was guessed."""
    if given is not None:
        return given, ""
    for delimiter in DELIMITERS:
        try:
            _, header = next(_csv_lines(text, source, delimiter))
            choose(header, source)
        except DataError:
            continue
        if delimiter == ",":
            return delimiter, ""
        return delimiter, f"{source} is read with {delimiter!r} between its fields."
    return ",", ""


def _csv_lines(text: str, source: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is not blank, with the number of the line where they start."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
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


def read_json_lines(data: bytes, source: str, choose: Choose, layout: TableLayout) -> Part:
    """The chosen values of a file with one JSON object a line."""
    text, note = decode(data, source, layout.encoding, may_guess=False)
    part = Part({}, 0, notes=[note] if note else [])
    objects: list[dict[str, Any]] = []
    # Split at line feeds alone: strings in JSON may hold other line separators, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            objects.append(_json_object(line, number))
        except ValueError as error:
            _set_aside(part, source, str(error), layout.skip_bad_rows)
            objects.append({})
        part.num_rows += 1
    present = list(dict.fromkeys(name for row in objects for name in row))
    part.columns = {name: [row.get(name) for row in objects] for name in choose(present, source)}
    return part


def _json_object(line: str, number: int) -> dict[str, Any]:
    """The object of a line.

    Raises:
        ValueError: what is there instead.
    """
    example = 'write one object a line, such as {"text": "...", "label": "..."}'
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON at line {number} ({error}); {example}") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ValueError(f"has no JSON object at line {number}, but a {kind}; {example}")
    return cast("dict[str, Any]", value)
