"""Rows that could not be used: a side file with their reasons, and one sentence for the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pillion.cli.output import write_lines
from pillion.core import FailedRow
from pillion.core.lines import json_line
from pillion.data import Texts
from pillion.errors import DataError, RunError


def all_failed(texts: Texts, failed: Sequence[FailedRow]) -> tuple[FailedRow, ...]:
    """Rows that failed when they were read or later, in order.

    Raises:
        DataError: not a single row is left.
    """
    rows = tuple(sorted([*texts.failed, *failed], key=lambda one: one.row))
    if len(rows) == len(texts):
        raise DataError(f"{texts.path}: Row {rows[0].row}: {rows[0].reason}")
    return rows


def write_failed(failed: Sequence[FailedRow], texts: Texts, path: Path) -> None:
    """Writes `row`, `file`, `row_of_file` (both from 1) and `reason` of each; no file for none.

    Raises:
        StorageError: if the file cannot be written.
    """
    if not failed:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines([json_line(_as_json(one, texts)) for one in failed], path)


def require_none(failed: Sequence[FailedRow], texts: Texts, where: str) -> None:
    """Returns if no row failed; what could be done has then been done for the others.

    Args:
        failed: the rows that failed.
        texts: all rows.
        where: says where their reasons stand.

    Raises:
        RunError: how many rows failed, and the first of them.
    """
    if failed:
        file, row = texts.place(failed[0].row)
        raise RunError(
            f"{len(failed):,} of {len(texts):,} rows failed and were left out, first row {row} of "
            f"{file} ({failed[0].reason.rstrip('.')}); {where}."
        )


def _as_json(one: FailedRow, texts: Texts) -> dict[str, str | int]:
    file, row_of_file = texts.place(one.row)
    return {"row": one.row, "file": file, "row_of_file": row_of_file, "reason": one.reason}
