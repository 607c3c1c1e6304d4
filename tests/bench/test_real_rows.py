"""The rows of other sources that `pillion bench real` reads, and the kinds of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pillion.cli.rows import RowOptions
from pillion.errors import DataError
from pillion_bench.cli.real import _other

ROWS = [
    {"text": "one", "label": "yes", "kind": None},
    {"text": "two", "label": "yes", "kind": "a"},
    {"text": "three", "label": None, "kind": "b"},
    {"text": "four", "label": "no", "kind": "c"},
]


def test_a_row_left_out_by_one_column_takes_no_other_rows_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many rows lacked a label as a kind, and kinds were counted for other texts."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    found = _other(f"more={file}:kind", RowOptions(skip_bad_rows=True))
    assert (found.rows.texts, found.groups) == (("two", "four"), ("a", "c"))
    assert found.rows.labels == ("yes", "no")
    assert "2 of 4 rows" in capsys.readouterr().err
    with pytest.raises(DataError, match="an empty or null label"):
        _other(f"more={file}:kind", RowOptions())
