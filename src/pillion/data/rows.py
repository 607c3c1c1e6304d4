"""Texts and labels of data files.

Promises that every text is a string or a conversation with something in it and every label a name
(or names), or a DataError with the row. Does not know what the labels mean or how they are split.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Int

from pillion.core import FailedRow, Text
from pillion.data import hub, tables
from pillion.data.cells import UnusableCell, text_of
from pillion.data.containers import label_cells, text_cells
from pillion.data.examples import Origin, as_examples, groups_of, plain_turns
from pillion.data.judged_labels import JudgedLabels, Label, SoftLabels
from pillion.data.layout import TEXT, Columns, TableLayout, choose_columns
from pillion.errors import BadRows, DataError


@dataclass(frozen=True)
class SetFacts:
    """What is told of one of several sets of rows.

    Attributes:
        name: its own among the sets.
        path: name of the file or folder.
        sha256: as of `Rows`.
        num_rows: of the set.
        labels: on which its rows were judged, by their common names.
        renamed: label of the file -> common name.
        share: of the loss; None: what its rows make of it.
    """

    name: str
    path: str
    sha256: str
    num_rows: int
    labels: tuple[str, ...]
    renamed: Mapping[str, str]
    share: float | None


@dataclass(frozen=True)
class Rows:
    """The texts of data files and, where asked for, their labels.

    Attributes:
        texts: one a row: a string, none of them blank, or the turns of a conversation.
        labels: one a row, a tuple of names where the file holds lists; None where not asked for.
        sha256: hex digest of the file's bytes, or of the digests of several files.
        path: where the rows came from.
        several: whether a row may have any number of labels, though each has one.
        origins: which row and turn of the data each came from; None where row n is the n-th.
        groups: a number a row, the same for rows that belong to one conversation, or are copies of
            one, and must not be parted by a split; None where no two do.
        files: name and number of rows of every file, in order, rows that failed among them.
        failed: rows that could not be used and were left out, in order.
        notes: what was found out or brought together, for the user.
        sets: those that were joined, if the rows are of several.
        set_ids: a number a row, its set's place among them; None where nothing was joined.
    """

    texts: tuple[Text, ...]
    labels: tuple[Label, ...] | None
    sha256: str
    path: str
    several: bool = False
    origins: tuple[Origin, ...] | None = None
    groups: tuple[int, ...] | None = None
    files: tuple[tuple[str, int], ...] = ()
    failed: tuple[FailedRow, ...] = ()
    notes: tuple[str, ...] = ()
    sets: tuple[SetFacts, ...] = ()
    set_ids: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, texts: Any, labels: Any, source: str, layout: TableLayout | None = None) -> Rows:
        """Rows of texts and labels in memory, checked as those of a file are.

        Args:
            texts: strings or conversations (lists of messages), in a list, an array, a series, a
                data frame of one column, or whatever else has an order.
            labels: one a text, as in `read_rows`, tuples counting as lists; a table of zeros and
                ones has a column a label. None for texts alone.
            source: what errors call them.
            layout: what their labels mean.

        Raises:
            DataError: a container, text or label that cannot be used, naming its row (from 1).
        """
        layout, cells = layout or TableLayout(), text_cells(texts)
        marked = None if labels is None else label_cells(labels)
        if marked is not None and len(cells) != len(marked):
            raise DataError(f"Got {len(cells)} texts and {len(marked)} labels; give one a text.")
        if not cells:
            raise DataError(f"{source} has no rows; give one or more texts.")
        made: list[Text | UnusableCell] = [text_of("text", [cell]) for cell in cells]
        read = _Read(source, "", ((source, len(cells)),), {}, ())
        return _rows(made, marked, read, layout, Columns("text", (TEXT,), soft=layout.soft))

    @property
    def numbers(self) -> list[int]:
        """The row of the data (from 1) that each came from."""
        return [one.row for one in self.origins] if self.origins else [*range(1, len(self) + 1)]

    def some(self, row_ids: Sequence[int] | Int[np.ndarray, " some"]) -> Rows:
        """Some of the rows, in the order given; each still knows where it came from."""
        ids = [int(row_id) for row_id in row_ids]
        origins = self.origins or [Origin(row + 1) for row in range(len(self))]
        return replace(
            self,
            texts=tuple(self.texts[row] for row in ids),
            labels=self.labels and tuple(self.labels[row] for row in ids),
            origins=tuple(origins[row] for row in ids),
            groups=self.groups and tuple(self.groups[row] for row in ids),
            set_ids=self.set_ids and tuple(self.set_ids[row] for row in ids),
        )

    def and_copies(self, texts: Sequence[Text]) -> Rows:
        """The rows and, after all of them, a copy of each that reads otherwise, in its group.

        Args:
            texts: of the copies, one a row.
        """
        return replace(
            self,
            texts=(*self.texts, *texts),
            labels=self.labels and self.labels * 2,
            origins=self.origins and self.origins * 2,
            groups=(self.groups or tuple(range(len(self)))) * 2,
            set_ids=self.set_ids and self.set_ids * 2,
        )

    def without(self, failed: Sequence[FailedRow]) -> Rows:
        """The other rows, where some failed later.

        Args:
            failed: with their places (from 1) among these rows, not those of the data.
        """
        origins = self.origins or tuple(Origin(row + 1) for row in range(len(self)))
        gone = {one.row - 1 for one in failed}
        late = {origins[one.row - 1].row: one.reason for one in failed}
        every = [*self.failed, *(FailedRow(row, reason) for row, reason in late.items())]
        kept = self.some([row for row in range(len(self)) if row not in gone])
        return replace(kept, failed=tuple(sorted(every, key=lambda one: one.row)))

    def place(self, row: int) -> tuple[str, int]:
        """The file of a row of the data (from 1) and the row's number in that file (from 1)."""
        return place_of(self.files, row)


@dataclass(frozen=True)
class Texts:
    """The texts of data files, those that cannot be used left out but not forgotten.

    Attributes:
        texts: one a row, None where it cannot be used.
        failed: the rows that cannot be used, in order.
        files: name and number of rows of every file, in order.
        path: where the rows came from.
        notes: what was found out, for the user.
    """

    texts: tuple[Text | None, ...]
    failed: tuple[FailedRow, ...]
    files: tuple[tuple[str, int], ...]
    path: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def place(self, row: int) -> tuple[str, int]:
        """The file of a row (from 1) and the row's number in that file (from 1)."""
        return place_of(self.files, row)


def place_of(files: Sequence[tuple[str, int]], row: int) -> tuple[str, int]:
    """The file of a row (from 1) among the rows of all, and its number in that file (from 1)."""
    for name, start, stop in _parts(files):
        if row <= stop:
            return name, row - start
    raise IndexError(f"There is no row {row} in {', '.join(name for name, _ in files)}.")


@dataclass(frozen=True)
class _Read:
    """Where cells came from: path, digest, files, broken rows and notes of a table."""

    path: str
    sha256: str
    files: tuple[tuple[str, int], ...]
    broken: dict[int, str]
    notes: tuple[str, ...]


def read_rows(
    path: str | os.PathLike[str],
    text_column: str | None = None,
    label_column: str | None = "label",
    layout: TableLayout | None = None,
) -> Rows:
    """The rows of Parquet, CSV or JSON Lines files (by suffix), or of a data set on the hub.

    A row is a text, a conversation (a list of messages with role and content, or of ShareGPT's from
    and value, as such or in JSON), or a prompt and its response. Where a list labels the turns of
    its row, each turn that was judged makes a row: the conversation up to it.

    Args:
        path: a `.parquet`, `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.json` file, a folder of such
            files, a pattern (`rows/*.csv`), a URL of one of these (`s3://...`), or
            `hf:NAME[:SPLIT]`.
        text_column: column of the texts; None for `text`, else `messages`, `conversations`, or
            `prompt` and `response`, which is noted.
        label_column: column of the labels, strings, numbers, booleans (the latter two become their
            `str`), lists of them, or mappings of names to true, false or null (not judged) or,
            where the layout says so, to probabilities; None to read texts alone.
        layout: other columns, and how the table is written.

    Raises:
        DataError: a file, text or label that cannot be used, with what was wanted instead.
        ConfigError: a data set on the hub without the `datasets` package, a URL whose file system
            needs a package that is not installed, or options that contradict each other.
    """
    source, layout = os.fspath(path), layout or TableLayout()
    table, columns = _table(source, text_column, label_column, layout)
    read = _read(source, table, columns)
    marked = _label_cells(table, columns, layout) if columns.labels else None
    return _rows(_texts(table, columns), marked, read, layout, columns)


def read_texts(
    path: str | os.PathLike[str],
    text_column: str | None = None,
    layout: TableLayout | None = None,
) -> Texts:
    """The texts of the same sources as `read_rows`; a text that cannot be used fails by itself.

    Raises:
        DataError: a file that cannot be used, or not a single usable text.
        ConfigError: a package that is missing; see `read_rows`.
    """
    source, layout = os.fspath(path), layout or TableLayout()
    table, columns = _table(source, text_column, None, layout)
    made = _texts(table, columns)
    faults = _all_faults(made, None, table.broken)
    if len(faults) == len(made):
        _refuse(faults, table.files)
    texts = tuple(None if isinstance(one, UnusableCell) else one for one in made)
    failed = tuple(FailedRow(row + 1, fault.reason) for row, fault in faults.items())
    read = _read(source, table, columns)
    return Texts(texts, failed, read.files, read.path, read.notes)


def _table(
    source: str, text_column: str | None, label_column: str | None, layout: TableLayout
) -> tuple[tables.Table, Columns]:
    part = hub if source.startswith(hub.PREFIX) else tables
    chosen: list[Columns] = []

    def choose(present: Sequence[str], name: str) -> list[str]:
        chosen.append(choose_columns(present, name, text_column, label_column, layout))
        return chosen[-1].names

    table = part.read_columns(source, choose, layout)
    if not table.columns or not table.columns[chosen[-1].text[0]]:
        raise DataError(f"{source} has columns but no rows; give a file with a row for each text.")
    return table, chosen[-1]


def _read(source: str, table: tables.Table, columns: Columns) -> _Read:
    """Where a table's cells came from, named as cards and result files can hold it."""
    return _Read(
        _writable(source),
        table.sha256,
        tuple((_writable(name), num_rows) for name, num_rows in table.files),
        table.broken,
        tuple(map(_writable, (*columns.notes, *table.notes))),
    )


def _writable(text: str) -> str:
    """What names a file; a question mark for each byte of the name that is no UTF-8."""
    return text.encode(errors="replace").decode()


def _parts(files: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Name, first row and end of each file among all rows."""
    stops = accumulate(num_rows for _, num_rows in files)
    for (name, num_rows), stop in zip(files, stops, strict=True):
        yield name, stop - num_rows, stop


def _texts(table: tables.Table, columns: Columns) -> list[Text | UnusableCell]:
    cells = zip(*(table.columns[name] for name in columns.text), strict=True)
    return [
        UnusableCell(table.broken[row]) if row in table.broken else text_of(columns.form, own)
        for row, own in enumerate(cells)
    ]


def _label_cells(table: tables.Table, columns: Columns, layout: TableLayout) -> list[Any]:
    """The cells of the label column; of several columns a mapping a row."""
    each = [table.columns[name] for name in columns.labels]
    if not layout.label_columns:
        return each[0]
    return [dict(zip(columns.labels, row, strict=True)) for row in zip(*each, strict=True)]


def _rows(
    made: list[Text | UnusableCell],
    marked: list[Any] | None,
    read: _Read,
    layout: TableLayout,
    columns: Columns,
) -> Rows:
    """Rows of texts and label cells, one conversation up to each turn that has a label."""
    texts = [(row, one) for row, one in enumerate(made) if not isinstance(one, UnusableCell)]
    found = None
    if marked is not None:
        found = as_examples(
            [(row, text, marked[row]) for row, text in texts],
            True if columns.turn_labels else layout.turn_labels,
            layout.multi_label,
            read.path,
            columns.soft,
        )
    faults = _all_faults(made, found.faults if found else None, read.broken)
    if faults and (not layout.skip_bad_rows or len(faults) == len(made)):
        _refuse(faults, read.files)
    failed = tuple(FailedRow(row + 1, fault.reason) for row, fault in faults.items())
    origins = [Origin(row + 1) for row, _ in texts] if found is None else found.origins
    kept = tuple(text for _, text in texts) if found is None else tuple(found.texts)
    labels = None if found is None else tuple(found.labels)
    as_read = all(one == Origin(n) for n, one in enumerate(origins, 1))
    return Rows(
        kept,
        labels,
        read.sha256 or _digest(kept, labels),
        read.path,
        several=bool(layout.multi_label),
        origins=None if as_read else tuple(origins),
        groups=groups_of(kept, origins),
        files=read.files,
        failed=failed,
        notes=(*read.notes, *(found.notes if found else ())),
    )


def _all_faults(
    made: Sequence[Text | UnusableCell],
    labels: dict[int, UnusableCell] | None,
    broken: dict[int, str],
) -> dict[int, UnusableCell]:
    """What is wrong, by the place of the row, ascending."""
    faults = {row: one for row, one in enumerate(made) if isinstance(one, UnusableCell)}
    found = {**(labels or {}), **faults}
    return {row: found[row] for row in sorted(found)}


def _refuse(faults: dict[int, UnusableCell], files: Sequence[tuple[str, int]]) -> None:
    """Raises for the first fault, with its file, row (from 1), value and how many are like it."""
    first = next(iter(faults))
    fault = faults[first]
    name, start, stop = next(part for part in _parts(files) if first < part[2])
    like = sum(one.what == fault.what for row, one in faults.items() if start <= row < stop)
    if not fault.remedy:
        where = "" if fault.what.startswith("the file ") else f"Row {first - start + 1}: "
        raise BadRows(f"{name}: {where}{fault.what.rstrip('.')}.")
    raise BadRows(
        f"{name} has {fault.what} in {like} of {stop - start} rows, first in row "
        f"{first - start + 1} ({_shortened(fault.value)}); {fault.remedy.format('them')}."
    )


def _shortened(value: Any, num_characters: int = 40) -> str:
    shown = repr(value)
    return shown if len(shown) <= num_characters else f"{shown[:num_characters]}..."


def _digest(texts: Sequence[Text], labels: Sequence[Label] | None) -> str:
    named = labels and [_plain_label(label) for label in labels]
    content = json.dumps([[plain_turns(text) for text in texts], named], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _plain_label(label: Label) -> Any:
    if isinstance(label, SoftLabels):
        return {"probs": label.probs}
    return {"has": label, "lacks": label.lacks} if isinstance(label, JudgedLabels) else label
