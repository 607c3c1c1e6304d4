"""Rows that could not be used: a side file with their reasons, and one sentence for the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.cli.app import err
from pillion.cli.output import write_lines
from pillion.core import FailedRow, OnTooLong, Scope, Template
from pillion.core.lines import json_line
from pillion.data import Rows, SlicePlan, Texts
from pillion.errors import DataError, RunError

if TYPE_CHECKING:
    from pillion.backends import Backend
    from pillion.evals import Labelled
    from pillion.probe import Artefact, Card

NUM_SHOWN = 10
"""Reasons that are printed where no file can hold them."""


def all_failed(texts: Texts, failed: Sequence[FailedRow]) -> tuple[FailedRow, ...]:
    """Rows that failed when they were read or later, in order.

    Raises:
        DataError: not a single row is left.
    """
    rows = tuple(sorted([*texts.failed, *failed], key=lambda one: one.row))
    check_some_left(rows, texts)
    return rows


def check_some_left(failed: Iterable[FailedRow], texts: Texts | SlicePlan) -> None:
    """Returns if a row is left.

    Raises:
        DataError: all rows have failed; names the first.
    """
    each = iter(failed)
    first = next(each, None)
    if first is not None and 1 + sum(1 for _ in each) == len(texts):
        raise DataError(f"{texts.path}: Row {first.row}: {first.reason}")


def fitting(
    rows: Rows,
    backend: Backend,
    template: Template,
    on_too_long: OnTooLong,
    scope: Scope,
    skip: bool,
) -> Rows:
    """The rows, those that the model cannot read left out where that was asked for.

    Args:
        rows: that could be read.
        backend: the model.
        template: how texts are wrapped.
        on_too_long: what happens to a text beyond the context window.
        scope: whose words will be read.
        skip: whether rows may be left out; otherwise encoding them raises.

    Raises:
        DataError: not a single row is left.
    """
    from pillion.runtime import sift_rows

    if not skip:
        return rows
    failed = sift_rows(backend, rows.texts, template, on_too_long, [scope])[1]
    if len(failed) == len(rows):
        raise DataError(f"{rows.path}: {failed[0].reason}")
    return rows.without(failed)


def say_left_out(rows: Rows | Texts, out: Path | None, part: str = "") -> None:
    """Says how many rows were left out and why: in NAME.failed.jsonl beside `out`, or here.

    Such a file of an earlier run goes where this one left out none.

    Args:
        rows: with those that failed.
        out: what the verb writes; None for nothing.
        part: of the data, for the name of the file, such as `.validation`.

    Raises:
        StorageError: if the file cannot be written.
    """
    out = out.absolute() if out is not None and not out.name else out  # `.` has no name
    side_file = None if out is None else out.with_name(f"{out.stem}{part}.failed.jsonl")
    if side_file is not None:
        write_failed(rows.failed, rows, side_file)
    if not rows.failed:
        return
    count = sum(num_rows for _, num_rows in rows.files)
    what = f"{len(rows.failed):,} of {count:,} rows of {rows.path} cannot be used and are left out"
    if side_file is not None:
        return err.print(f"{what}; their reasons are in {side_file}.")
    err.print(f"{what}:")
    for one in rows.failed[:NUM_SHOWN]:
        file, row = rows.place(one.row)
        err.print(f"  row {row} of {file}: {one.reason}")
    if len(rows.failed) > NUM_SHOWN:
        err.print(f"  ... and {len(rows.failed) - NUM_SHOWN:,} more")


def write_failed(failed: Iterable[FailedRow], rows: Rows | Texts | SlicePlan, path: Path) -> None:
    """Writes `row`, `file`, `row_of_file` (both from 1) and `reason` of each; no file for none.

    Raises:
        StorageError: if the file cannot be written.
    """
    lines = (json_line(_as_json(one, rows)) for one in failed)
    first = next(lines, None)
    if first is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(chain([first], lines), path)


def finish(failed: Iterable[FailedRow], texts: Texts | SlicePlan, where: str, skip: bool) -> None:
    """Returns if no row failed or they may; what could be done has been done for the others.

    Args:
        failed: the rows that failed.
        texts: all rows.
        where: says where their reasons stand.
        skip: whether rows may fail.

    Raises:
        RunError: how many rows failed, and the first of them.
    """
    each = iter(failed)
    first = next(each, None)
    if first is None:
        return
    file, row = texts.place(first.row)
    sentence = (
        f"{1 + sum(1 for _ in each):,} of {len(texts):,} rows failed and were left out, first row "
        f"{row} of {file} ({first.reason.rstrip('.')}); {where}."
    )
    if not skip:
        raise RunError(sentence)
    err.print(sentence)


def _as_json(one: FailedRow, rows: Rows | Texts | SlicePlan) -> dict[str, str | int]:
    file, row_of_file = rows.place(one.row)
    return {"row": one.row, "file": file, "row_of_file": row_of_file, "reason": one.reason}


def say_own_rows(card: Card, labelled: Labelled) -> None:
    """Says where rows are those that the probe was trained on: no measure of it."""
    from pillion.evals import own_rows

    sentence = own_rows(card, labelled.rows)
    if sentence is not None:
        err.print(sentence)


def say_measured_rows(card: Card, labelled: Labelled) -> None:
    """The same, and where the probe was chosen by these rows."""
    from pillion.evals import chosen_rows, own_rows

    sentence = own_rows(card, labelled.rows) or chosen_rows(card, labelled.rows)
    if sentence is not None:
        err.print(sentence)


def usable(
    labelled: Labelled,
    artefact: Artefact,
    backend: Backend,
    on_too_long: OnTooLong,
    skip: bool,
    out: Path | None,
) -> Labelled:
    """Labelled rows of a probe; those that cannot be used are told, and left out if asked."""
    from pillion.evals import Labelled

    card = artefact.card
    if skip:
        labelled = Labelled.of(
            card, fitting(labelled.rows, backend, card.template, on_too_long, card.scope, skip)
        )
    say_left_out(labelled.rows, out)
    return labelled
