"""Where slices of a file may begin, found by going through it once, in pieces.

Promises the rows that `tables` reads, wherever and in whatever pieces they are read. A line-wise
file in UTF-8 is cut at bytes, quotes and all; any other text file is read as a whole each time.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import pyarrow.parquet as pq

from pillion.data import tables
from pillion.data.files import DataFile, reading
from pillion.data.layout import Columns, TableLayout, check_columns, choose_columns
from pillion.data.text_files import (
    FileColumns,
    Header,
    csv_part,
    csv_rows,
    find_delimiter,
    json_rows,
)
from pillion.errors import DataError

BLOCK_ROWS = 256
"""Rows of a file whose length decides together how they are batched; slices are whole blocks."""

HEAD_BYTES = 2**20
"""Of a CSV file, in which its header stands."""

MOST_SLICE_ROWS = 256 * BLOCK_ROWS

Way = Literal["parquet", "lines", "whole"]
"""How a slice is read: rows of a Parquet file, a range of bytes, or rows of the parsed file."""


@dataclass(frozen=True)
class Cut:
    """Where a slice begins: its row of the file, and the byte and line (from 1) of line files."""

    row: int
    byte: int = 0
    line: int = 0


@dataclass(frozen=True)
class Scanned:
    """What is known of a file.

    Attributes:
        num_rows: how many.
        columns: that are read; None of a file without rows.
        way: how a slice of it is read.
        cuts: where its slices begin, in order.
        end: byte behind its last row.
        header: of a CSV file.
        notes: what was guessed, for the user.
    """

    num_rows: int
    columns: Columns | None = None
    way: Way = "lines"
    cuts: tuple[Cut, ...] = ()
    end: int = 0
    header: Header | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Any) -> Scanned:
        """What `dataclasses.asdict` and JSON have made of it."""
        made = _tuples(content)
        made["cuts"] = tuple(Cut(**cut) for cut in made["cuts"])
        made["columns"] = made["columns"] and Columns(**_tuples(made["columns"]))
        made["header"] = made["header"] and Header(**_tuples(made["header"]))
        return cls(**made)


def _tuples(content: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    return {
        name: tuple(cast("list[Any]", one)) if isinstance(one, list) else one
        for name, one in content.items()
    }


@dataclass(frozen=True)
class Scan:
    """What to find out about a file.

    Attributes:
        file: where it lies.
        layout: how it is written.
        text_column: column of the texts; None to find it.
        columns: those of the files before it, which it must have too; None for the first.
        slice_bytes: bytes of texts that a slice has at least, where it has so many.
        may_be_empty: whether a file without a byte is one without rows.
    """

    file: DataFile
    layout: TableLayout
    text_column: str | None
    columns: Columns | None
    slice_bytes: int
    may_be_empty: bool

    def run(self) -> Scanned:
        """Goes through the file.

        Raises:
            DataError: it is empty, broken, or lacks a column.
        """
        size, _ = self.file.facts()
        if not size:
            return self._empty()
        if self.file.suffix == ".parquet":
            return self._parquet()
        if (self.layout.encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8"):
            lines = self._json if self.file.suffix in _JSON else self._csv
            try:
                with reading(self.file.name):
                    return lines(size)
            except UnicodeDecodeError:
                pass  # another encoding, or a broken file: its reader tells
        return self._whole(size)

    def _empty(self) -> Scanned:
        if not self.may_be_empty:
            raise DataError(f"{self.file.name} is empty; give a file with a row for each text.")
        return Scanned(0)

    def _choose(self, present: Sequence[str], source: str) -> Columns:
        if self.columns is None:
            return choose_columns(present, source, self.text_column, None, self.layout)
        check_columns(present, self.columns.names, source)
        return self.columns

    def _parquet(self) -> Scanned:
        with tables.readable_parquet(self.file.name), self.file.open() as opened:
            file = pq.ParquetFile(opened)
            columns = self._choose(file.schema_arrow.names, self.file.name)
            num_rows = int(file.metadata.num_rows)
            text_bytes = _text_bytes(file.metadata, columns.names)
        cuts = _even_cuts(num_rows, text_bytes, self.slice_bytes)
        return Scanned(num_rows, columns, "parquet", cuts)

    def _whole(self, size: int) -> Scanned:
        found: list[Columns] = []

        def choose(present: Sequence[str], source: str) -> list[str]:
            found.append(self._choose(present, source))
            return found[-1].names

        _, part = tables.read_file(self.file, choose, self.layout, self.may_be_empty)
        if not found:
            return self._empty()
        cuts = _even_cuts(part.num_rows, size, self.slice_bytes)
        return Scanned(part.num_rows, found[-1], "whole", cuts, notes=tuple(part.notes))

    def _json(self, size: int) -> Scanned:
        present: dict[str, None] = {}
        part = FileColumns({}, 0)
        with self.file.open() as opened:
            counted = _Counted(opened, len)
            lines = (_line(raw, counted.lines == 1) for raw in counted)
            cutter = _Cutter(self.slice_bytes, Cut(0, 0, 1))
            for row in json_rows(lines, self.file.name, part, self.layout.skip_bad_rows):
                if not row.keys() <= present.keys():
                    present |= dict.fromkeys(row)
                cutter.row_ends(counted)
        if not part.num_rows:
            return self._empty()
        columns = self._choose(list(present), self.file.name)
        return Scanned(part.num_rows, columns, "lines", cutter.cuts, size)

    def _csv(self, size: int) -> Scanned:
        name = self.file.name
        given = self.layout.delimiter or ("\t" if self.file.suffix == ".tsv" else None)
        head = self.file.part(0, min(size, HEAD_BYTES))
        head = head[: head.rfind(b"\n") + 1] or head
        text = head.decode("utf-8-sig")
        delimiter, note = find_delimiter(
            lambda: io.StringIO(text, newline=""),
            name,
            lambda present, _: self._choose(present, name).names,
            given,
        )
        # csv wants lines with their ends, of whatever kind.
        with (
            self.file.open() as opened,
            io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as lines,
        ):
            counted = _Counted(lines, lambda line: len(line.encode()))
            counted.bytes = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
            rows = csv_rows(counted, name, delimiter, size)
            first = next(rows, None)
            if first is None:
                return self._empty()
            header = Header(tuple(first[1]), first[0], delimiter)
            columns = self._choose(first[1], name)
            cutter = _Cutter(self.slice_bytes, Cut(0, counted.bytes, counted.lines + 1))
            # Row by row, so that no more than one is held; fields of a wrong number are told here.
            num_rows = 0
            for row in rows:
                csv_part([row], name, header, columns.names, self.layout.skip_bad_rows)
                num_rows += 1
                cutter.row_ends(counted)
        notes = (note,) if note else ()
        cuts = cutter.cuts if num_rows else ()
        return Scanned(num_rows, columns, "lines", cuts, size, header, notes)


_JSON = {".jsonl", ".ndjson", ".json"}


class _Counted:
    """Lines, and how many of them and of their bytes have been taken."""

    def __init__(self, lines: Iterable[Any], num_bytes: Callable[[Any], int]) -> None:
        self._lines, self._num_bytes = lines, num_bytes
        self.bytes = self.lines = 0

    def __iter__(self) -> Iterator[Any]:
        for line in self._lines:
            self.bytes += self._num_bytes(line)
            self.lines += 1
            yield line


class _Cutter:
    """Cuts where a block ends and the slice is large enough; the last cut may have no row."""

    def __init__(self, slice_bytes: int, first: Cut) -> None:
        self._slice_bytes, self._row = slice_bytes, 0
        self._cuts = [first]

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The cuts found so far, ascending."""
        return tuple(cut for cut in self._cuts if cut.row < self._row)

    def row_ends(self, counted: _Counted) -> None:
        """A row has been read, and its line counted."""
        self._row += 1
        if self._row % BLOCK_ROWS:
            return
        last = self._cuts[-1]
        large = counted.bytes - last.byte >= self._slice_bytes
        if large or self._row - last.row >= MOST_SLICE_ROWS:
            self._cuts.append(Cut(self._row, counted.bytes, counted.lines + 1))


def _line(raw: bytes, is_first: bool) -> str:
    """Without its line feed, and without the mark that a file may begin with."""
    return raw.removesuffix(b"\n").decode("utf-8-sig" if is_first else "utf-8")


def _even_cuts(num_rows: int, num_bytes: int, slice_bytes: int) -> tuple[Cut, ...]:
    """Slices of equal numbers of rows."""
    if not num_rows:
        return ()
    wanted = slice_bytes * num_rows // max(1, num_bytes)
    step = max(1, min(wanted, MOST_SLICE_ROWS) // BLOCK_ROWS) * BLOCK_ROWS
    return tuple(Cut(row) for row in range(0, num_rows, step))


def _text_bytes(metadata: Any, names: Sequence[str]) -> int:
    """Bytes of the columns before they were packed."""
    total = 0
    for group_id in range(metadata.num_row_groups):
        group = metadata.row_group(group_id)
        columns = (group.column(place) for place in range(group.num_columns))
        total += sum(
            one.total_uncompressed_size
            for one in columns
            if one.path_in_schema.split(".")[0] in names
        )
    return total
