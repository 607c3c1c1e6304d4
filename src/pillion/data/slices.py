"""The rows of a source in slices that any process that sees the files can read.

Promises the rows of `read_texts`, in the same order, with memory for a slice. The planner knows
names and counts alone. Does not know models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pillion.core import FailedRow, Text
from pillion.data import hub, tables
from pillion.data.file_slices import Slice, file_slices
from pillion.data.files import DataFile, find_files
from pillion.data.layout import Columns, TableLayout
from pillion.data.rows import Texts, place_of, read_texts
from pillion.data.scan import BLOCK_ROWS, Scan, Scanned
from pillion.errors import DataError

SLICE_BYTES = 256 * 2**10
"""Of texts: half a minute of one core, a second of a GPU."""

MOST_SLICES = 2**16
"""About as many slices has a large source: larger ones, not more."""

THREADS = 16
"""Footers that are read at once: from object stores each takes as long as its way."""


@dataclass(frozen=True)
class SlicePlan:
    """All slices of a source.

    Attributes:
        slices: in the order of their rows.
        files: name and number of rows of every file, in order.
        path: the source.
        notes: what was found out, for the user.
    """

    slices: Sequence[Slice]
    files: tuple[tuple[str, int], ...]
    path: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(num_rows for _, num_rows in self.files)

    def place(self, row: int) -> tuple[str, int]:
        """The file of a row (from 1) and the row's number in that file (from 1)."""
        return place_of(self.files, row)


ScanAll = Callable[[list[Scan]], Iterable[Scanned]]
"""Goes through files, here or elsewhere; gives what it found in their order."""


def scan_here(scans: list[Scan]) -> Iterator[Scanned]:
    """Goes through files in this process."""
    return (scan.run() for scan in scans)


def plan_slices(
    source: str,
    text_column: str | None = None,
    layout: TableLayout | None = None,
    scan_all: ScanAll = scan_here,
) -> SlicePlan:
    """Where the texts of a source are; see `read_texts` for what a source is.

    Files without an index are gone through once, by `scan_all`.

    Args:
        source: file, folder, pattern, URL, or a data set of the hub, which is read here and now.
        text_column: column of the texts; None to find it.
        layout: other columns, and how the table is written.
        scan_all: reads through files.

    Raises:
        DataError: a file that cannot be used.
        ConfigError: a package that is missing; see `read_texts`.
    """
    layout = layout or TableLayout()
    if source.startswith(hub.PREFIX):
        return _held(source, text_column, layout)
    files = find_files(source, tables.SUFFIXES)
    facts = [file.facts() for file in files]
    slice_bytes = max(SLICE_BYTES, sum(size for size, _ in facts) // MOST_SLICES)

    def scan(file: DataFile, columns: Columns | None) -> Scan:
        return Scan(file, layout, text_column, columns, slice_bytes, len(files) > 1)

    found: list[Scanned] = []
    for file in files:  # up to the first with rows, whose columns all others must have
        found += _scanned([scan(file, None)], scan_all)
        if found[-1].columns is not None:
            break
    columns = found[-1].columns
    found += _scanned([scan(file, columns) for file in files[len(found) :]], scan_all)
    if columns is None or not any(one.num_rows for one in found):
        raise DataError(f"{source} has columns but no rows; give a file with a row for each text.")
    notes = (*columns.notes, *(note for one in found for note in one.notes))
    slices = [
        piece
        for file, (size, stamp), one in zip(files, facts, found, strict=True)
        for piece in file_slices(file, size, stamp, layout, one)
    ]
    counts = tuple((file.name, one.num_rows) for file, one in zip(files, found, strict=True))
    return SlicePlan(slices, counts, source, notes)


def _scanned(scans: list[Scan], scan_all: ScanAll) -> list[Scanned]:
    """Parquet files say what is in them; the others have to be read through."""
    known = [place for place, scan in enumerate(scans) if scan.file.suffix == ".parquet"]
    others = [place for place in range(len(scans)) if place not in set(known)]
    found: dict[int, Scanned] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        footers = pool.map(Scan.run, [scans[place] for place in known])
        found |= dict(zip(known, footers, strict=True))
    found |= dict(zip(others, scan_all([scans[place] for place in others]), strict=True))
    return [found[place] for place in range(len(scans))]


def _held(source: str, text_column: str | None, layout: TableLayout) -> SlicePlan:
    """A data set of the hub has no files that others could read: its slices hold their texts."""
    return hold(read_texts(source, text_column, layout))


def hold(texts: Texts) -> SlicePlan:
    """Slices of texts that are in memory."""
    reasons = {one.row: one.reason for one in texts.failed}
    slices: list[HeldSlice] = []
    start = 0
    for _, num_rows in texts.files:
        for begin in range(start, start + num_rows, 8 * BLOCK_ROWS):
            rows = range(begin, min(begin + 8 * BLOCK_ROWS, start + num_rows))
            failed = [
                FailedRow(row - begin + 1, reasons[row + 1]) for row in rows if row + 1 in reasons
            ]
            slices.append(HeldSlice(texts.texts[rows.start : rows.stop], tuple(failed)))
        start += num_rows
    return SlicePlan(slices, texts.files, texts.path, texts.notes)


@dataclass(frozen=True)
class HeldSlice:
    """A slice that holds its texts.

    Attributes:
        texts: of its rows.
        failed: those that cannot be used.
    """

    texts: tuple[Text | None, ...]
    failed: tuple[FailedRow, ...]

    @property
    def num_rows(self) -> int:
        """Texts that are held, with those that failed."""
        return len(self.texts)

    @property
    def name(self) -> str:
        """A hash of the texts."""
        return hashlib.sha256(repr((self.texts, self.failed)).encode()).hexdigest()

    def read(self) -> tuple[list[Text | None], list[FailedRow]]:
        """The texts that it holds; no file is read."""
        return list(self.texts), list(self.failed)
