"""A slice of a file, and how it is read on any machine that sees the file.

Promises the very rows that were there when the file was gone through, or a DataError. Memory is
that of the slice, but for text files that are read as a whole.
"""

from __future__ import annotations

import hashlib
import io
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Protocol, runtime_checkable

import pyarrow.parquet as pq

from pillion.core import FailedRow, Text
from pillion.data import tables
from pillion.data.cells import UnusableCell, text_of
from pillion.data.files import DataFile
from pillion.data.layout import Columns, TableLayout, check_columns
from pillion.data.scan import Cut, Scanned, Way
from pillion.data.text_files import FileColumns, Header, csv_part, csv_rows, json_columns, json_rows
from pillion.errors import DataError

BATCH_ROWS = 1024
"""Rows of a Parquet file that are unpacked at once."""


@runtime_checkable
class Slice(Protocol):
    """Consecutive rows of one file."""

    @property
    def num_rows(self) -> int:
        """Rows of the slice, with those that cannot be read."""
        ...

    @property
    def name(self) -> str:
        """Of its file and its place there; another one when either changes."""
        ...

    def read(self) -> tuple[list[Text | None], list[FailedRow]]:
        """The texts, None where a row cannot be used, and these rows (numbers from 1 here).

        Raises:
            DataError: the file is gone, another one, or broken.
        """
        ...


@dataclass(frozen=True)
class Sliced:
    """What the slices of one file have in common.

    Attributes:
        file: where they lie.
        size: of the file, in bytes.
        stamp: tells the file from an earlier one of its name.
        layout: how it is written.
        columns: that are read.
        way: how a slice is read.
        header: of a CSV file.
    """

    file: DataFile
    size: int
    stamp: str
    layout: TableLayout
    columns: Columns
    way: Way
    header: Header | None


@dataclass(frozen=True)
class FileSlice:
    """Consecutive rows of a file.

    Attributes:
        of: the file.
        first: where they begin.
        num_rows: how many.
        end: byte behind the last, of files of lines.
    """

    of: Sliced
    first: Cut
    num_rows: int
    end: int

    @property
    def name(self) -> str:
        """A hash of the file's facts, of how it is read, and of the rows."""
        one = self.of
        facts = (one.stamp, repr(one.layout), one.columns.form, one.columns.text)
        return hashlib.sha256(repr((facts, self.first.row, self.num_rows)).encode()).hexdigest()

    def read(self) -> tuple[list[Text | None], list[FailedRow]]:
        """See `Slice.read`."""
        name, size = self.of.file.name, self.of.file.facts()[0]
        if size != self.of.size:
            raise DataError(
                f"{name} has {size:,} bytes here, and had {self.of.size:,} when the run began; "
                "show all machines the same files, and leave them alone while they are read."
            )
        part = _WAYS[self.of.way](self)
        if part.num_rows != self.num_rows:
            raise DataError(f"{name} has changed since the run began; start again.")
        columns = self.of.columns
        cells = zip(*(part.columns[column] for column in columns.text), strict=True)
        made = [
            UnusableCell(part.broken[row]) if row in part.broken else text_of(columns.form, own)
            for row, own in enumerate(cells)
        ]
        failed = [
            FailedRow(n, one.reason)
            for n, one in enumerate(made, 1)
            if isinstance(one, UnusableCell)
        ]
        return [None if isinstance(one, UnusableCell) else one for one in made], failed


def file_slices(
    file: DataFile, size: int, stamp: str, layout: TableLayout, scanned: Scanned
) -> Iterator[FileSlice]:
    """The slices of a file that was gone through."""
    if scanned.columns is None:
        return
    of = Sliced(file, size, stamp, layout, scanned.columns, scanned.way, scanned.header)
    for first, after in pairwise((*scanned.cuts, Cut(scanned.num_rows, scanned.end))):
        yield FileSlice(of, first, after.row - first.row, after.byte)


def _lines(piece: FileSlice) -> FileColumns:
    """A range of bytes: whole lines in UTF-8."""
    of, first = piece.of, piece.first
    data = of.file.part(first.byte, piece.end)
    text = data.decode("utf-8-sig" if first.byte == 0 else "utf-8")
    skip, name = of.layout.skip_bad_rows, of.file.name
    if of.header is not None:
        lines = io.StringIO(text, newline="")
        rows = csv_rows(lines, name, of.header.delimiter, len(text), first.line)
        return csv_part(rows, name, of.header, of.columns.names, skip)
    part = FileColumns({}, 0)
    objects = list(json_rows(text.split("\n"), name, part, skip, first.line))
    part.columns = json_columns(objects, of.columns.names)
    return part


def _whole(piece: FileSlice) -> FileColumns:
    """Rows of a text file that has to be parsed from its beginning; the last one is kept."""
    whole, rows = _parsed(piece.of), range(piece.first.row, piece.first.row + piece.num_rows)
    columns = {name: cells[rows.start : rows.stop] for name, cells in whole.columns.items()}
    broken = {row - rows.start: why for row, why in whole.broken.items() if row in rows}
    return FileColumns(columns, min(rows.stop, whole.num_rows) - rows.start, broken)


@lru_cache(maxsize=1)
def _parsed(of: Sliced) -> FileColumns:
    def choose(present: Sequence[str], source: str) -> list[str]:
        check_columns(present, of.columns.names, source)  # by which the delimiter is found
        return of.columns.names

    return tables.read_file(of.file, choose, of.layout, True)[1]


def _rows(piece: FileSlice) -> FileColumns:
    """Rows of a Parquet file."""
    of, row = piece.of, piece.first.row
    with tables.readable_parquet(of.file.name):
        batches = _OPEN.take(of, row, piece.num_rows)
    columns: dict[str, list[Any]] = {}
    for name in of.columns.names:
        cells = (cell for batch in batches for cell in batch.column(name))
        columns[name] = tables.parquet_values(cells, name, of.file.name, row)
    return FileColumns(columns, sum(batch.num_rows for batch in batches))


class _OpenParquet:
    """The Parquet file that was read last: read in order, its slices unpack no row twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: Sliced | None = None
        self._next = 0  # row of the file that comes next
        self._rest: list[Any] = []  # batches that are unpacked, in order

    def take(self, of: Sliced, first: int, num_rows: int) -> list[Any]:
        """Consecutive rows, in batches."""
        with self._lock:
            if self._of != of:
                self._open(of)
            group = bisect_right(self._group_starts, first) - 1
            if first < self._next or self._group_starts[group] > self._next:
                self._start(group)
            self._pull(first - self._next)
            return self._pull(num_rows)

    def _open(self, of: Sliced) -> None:
        if self._of is not None:
            self._stream.close()
        self._of, self._stream = None, of.file.open()
        # In pieces: a whole column of a large row group would be held otherwise.
        self._file = pq.ParquetFile(self._stream, buffer_size=2**20, pre_buffer=False)
        metadata = self._file.metadata
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._group_starts = [0, *accumulate(groups[:-1])]
        self._of = of
        self._start(0)

    def _start(self, group: int) -> None:
        self._next, self._rest = self._group_starts[group], []
        groups = range(group, len(self._group_starts))
        assert self._of is not None
        self._batches = self._file.iter_batches(
            BATCH_ROWS, row_groups=groups, columns=self._of.columns.names, use_threads=False
        )

    def _pull(self, num_rows: int) -> list[Any]:
        found: list[Any] = []
        while num_rows and (batch := self._rest.pop() if self._rest else next(self._batches, None)):
            if batch.num_rows > num_rows:
                self._rest.append(batch.slice(num_rows))
                batch = batch.slice(0, num_rows)
            found.append(batch)
            num_rows -= batch.num_rows
            self._next += batch.num_rows
        return found


_OPEN = _OpenParquet()

_WAYS: dict[Way, Callable[[FileSlice], FileColumns]] = {
    "lines": _lines,
    "whole": _whole,
    "parquet": _rows,
}
