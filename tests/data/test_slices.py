"""Slices of files: the rows of `read_texts`, whatever the kind of file, with a slice in memory."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pillion.core import FailedRow, Text
from pillion.data import (
    BLOCK_ROWS,
    Scan,
    Scanned,
    SlicePlan,
    TableLayout,
    Texts,
    hold,
    plan_slices,
    read_texts,
)
from pillion.data.file_slices import FileSlice
from pillion.errors import DataError

LETTERS = random.Random(0)
TEXTS = ["\u00e4\u2028 x\n" * LETTERS.randint(1, 9) + f'{n}, "q"' for n in range(700)]
TEXTS[5], TEXTS[600] = "", "\u00a0"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice is as small as it may be: a block of rows."""
    monkeypatch.setattr("pillion.data.slices.SLICE_BYTES", 1)


def parquet(path: Path) -> None:
    pq.write_table(pa.table({"n": range(700), "text": TEXTS}), path, row_group_size=300)


def conversations(path: Path) -> None:
    """Prompts and responses, in one row group."""
    pq.write_table(pa.table({"prompt": [f"p {n}" for n in range(700)], "response": TEXTS}), path)


def json_lines(path: Path) -> None:
    """With a mark, blank lines, and a column that comes late."""
    lines = [json.dumps({"text": text} | ({"k": 1} if text else {})) for text in TEXTS]
    lines[3] += "\n\n  "
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")


def comma(path: Path) -> None:
    """Rows over several lines, a blank line before the header, ends of three kinds."""
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        file.write("\r\n")
        rows = csv.writer(file)
        rows.writerow(["n", "text"])
        for n, text in enumerate(TEXTS):
            rows.writerow([n, text.replace("\n", ("\n", "\r", "\r\n")[n % 3])])


def semicolon(path: Path) -> None:
    """No UTF-8: its characters cannot be told without all of it."""
    lines = [f"{n};gr\u00fc\u00dfe {n}\n" for n in range(700)]
    path.write_text(f"n;text\n{''.join(lines)}", encoding="cp1252")


def tabs(path: Path) -> None:
    path.write_text("text\tn\n" + "".join(f"t {n}\t{n}\n" for n in range(700)), encoding="utf-8")


KINDS: dict[str, Callable[[Path], None]] = {
    "a.parquet": parquet,
    "b.parquet": conversations,
    "c.jsonl": json_lines,
    "d.csv": comma,
    "e.csv": semicolon,
    "f.tsv": tabs,
}


def read(plan: SlicePlan) -> tuple[list[Text | None], list[FailedRow]]:
    """All slices, in order."""
    texts: list[Text | None] = []
    failed: list[FailedRow] = []
    for piece in plan.slices:
        own, bad = piece.read()
        assert len(own) == piece.num_rows
        failed += [FailedRow(len(texts) + one.row, one.reason) for one in bad]
        texts += own
    return texts, failed


def assert_same(plan: SlicePlan, whole: Texts) -> None:
    texts, failed = read(plan)
    assert tuple(texts) == whole.texts
    assert tuple(failed) == whole.failed
    assert (plan.files, plan.notes, len(plan)) == (whole.files, whole.notes, len(whole))
    assert plan.place(len(plan)) == whole.place(len(plan))


@pytest.mark.parametrize("name", KINDS)
def test_slices_hold_the_rows_of_the_whole_file(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    plan = plan_slices(str(tmp_path / name))
    assert [piece.num_rows for piece in plan.slices] == [
        BLOCK_ROWS,
        BLOCK_ROWS,
        700 - 2 * BLOCK_ROWS,
    ]
    assert_same(plan, read_texts(tmp_path / name))
    # Out of order, and twice: who reads which is not known before.
    last, first = plan.slices[-1].read(), plan.slices[0].read()
    assert (plan.slices[-1].read(), plan.slices[0].read()) == (last, first)


def test_a_folder_of_several_kinds_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    for name in ("a.parquet", "c.jsonl", "d.csv", "e.csv"):
        KINDS[name](tmp_path / name)
    (tmp_path / "b.jsonl").write_bytes(b"")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "f.parquet")
    plan = plan_slices(str(tmp_path))
    assert_same(plan, read_texts(tmp_path))
    assert len({piece.name for piece in plan.slices}) == len(plan.slices) == 12


def test_texts_that_are_held_come_in_slices_too(tmp_path: Path) -> None:
    json_lines(tmp_path / "c.jsonl")
    whole = read_texts(tmp_path / "c.jsonl")
    assert_same(hold(whole), whole)


BROKEN = {
    "no object": ("c.jsonl", '{"text": "a"}\n[1]\n', "has no JSON object at line 2"),
    "no json": ("c.jsonl", '\n{"text": "a"}\n{"text"\n', "is not valid JSON at line 3"),
    "no utf-8": ("c.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "valid UTF-8 at line 2 (byte"),
    "fields": ("d.csv", 'n,text\n"a\n",b\n1,2,3\n', "has 3 fields at line 4"),
    "quotes": ("d.csv", 'text\n"a" b\n', "is not valid CSV at line 2"),
    "no column": ("d.csv", "n,words\n1,2\n", "has no column 'text'"),
    "no parquet": ("a.parquet", "PAR1", "is not a readable Parquet file"),
    "empty": ("c.jsonl", "", "is empty"),
    "no rows": ("d.csv", "text\n", "has columns but no rows"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_told_in_the_words_of_whoever_reads_it_whole(
    name: str, tmp_path: Path
) -> None:
    file, content, words = BROKEN[name]
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / file).write_bytes(data)
    with pytest.raises(DataError) as whole:
        read_texts(tmp_path / file)
    with pytest.raises(DataError) as planned:
        plan_slices(str(tmp_path / file))
    assert words in str(whole.value)
    assert str(planned.value) == str(whole.value)


def test_rows_that_are_no_rows_are_set_aside_where_that_was_asked_for(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t {n}"}) for n in range(600)]
    lines[300], lines[599] = "{", "7"
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    layout = TableLayout(skip_bad_rows=True)
    plan = plan_slices(str(tmp_path / "c.jsonl"), layout=layout)
    assert_same(plan, read_texts(tmp_path / "c.jsonl", layout=layout))
    assert "not valid JSON at line 301" in read(plan)[1][0].reason


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    json_lines(tmp_path / "c.jsonl")
    plan = plan_slices(str(tmp_path / "c.jsonl"))
    with open(tmp_path / "c.jsonl", "a") as file:
        file.write('\n{"text": "more"}')
    with pytest.raises(DataError, match=r"bytes here, and had [\d,]+ when the run began"):
        plan.slices[0].read()
    again = plan_slices(str(tmp_path / "c.jsonl"))
    assert not {one.name for one in again.slices} & {one.name for one in plan.slices}


def test_a_large_source_has_larger_slices_and_not_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tabs(tmp_path / "f.tsv")
    monkeypatch.setattr("pillion.data.slices.MOST_SLICES", 1)
    assert len(plan_slices(str(tmp_path / "f.tsv")).slices) == 1


def test_what_was_found_out_of_a_file_comes_back_from_json(tmp_path: Path) -> None:
    comma(tmp_path / "d.csv")
    plan = plan_slices(str(tmp_path / "d.csv"))
    piece: Any = plan.slices[0]
    assert isinstance(piece, FileSlice)
    scan = Scan(piece.of.file, TableLayout(), None, None, 1, False)
    found = scan.run()
    assert Scanned.from_json(json.loads(json.dumps(asdict(found)))) == found
    assert found.header is not None and found.header.line == 2 and len(found.cuts) == 3
