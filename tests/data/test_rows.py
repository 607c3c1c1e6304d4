"""Reading files: what comes out of each kind, and one clear sentence for what is wrong."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pillion.data import Rows, read_rows
from pillion.errors import DataError

TEXTS = ("plain", 'with "quotes", and a comma', "two\nlines", "ünïcode \u2028 \U0001f600")
LABELS = ("a", "b", "a", "b")


def write_jsonl(path: Path, texts: Sequence[Any], labels: Sequence[Any]) -> Path:
    rows = zip(texts, labels, strict=True)
    lines = [
        json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n"
        for text, label in rows
    ]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    return path


def write_csv(path: Path, texts: Sequence[Any], labels: Sequence[Any]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return path


def write_parquet(path: Path, texts: Sequence[Any], labels: Sequence[Any]) -> Path:
    pq.write_table(pa.table({"text": list(texts), "label": list(labels)}), path)
    return path


WRITERS = {
    "rows.jsonl": write_jsonl,
    "rows.ndjson": write_jsonl,
    "rows.json": write_jsonl,
    "rows.csv": write_csv,
    "rows.parquet": write_parquet,
    "ROWS.CSV": write_csv,
}


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def labels_of(folder: Path, labels: Sequence[Any]) -> Any:
    return read_rows(write_jsonl(folder / "r.jsonl", ["t"] * len(labels), labels)).labels


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, TEXTS, LABELS)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    rows = read_rows(path)
    assert rows == Rows(TEXTS, LABELS, sha256, str(path), files=((str(path), 4),))
    assert len(rows) == 4


@pytest.mark.parametrize("name", WRITERS)
def test_texts_are_read_without_labels(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, TEXTS, LABELS)
    assert read_rows(path, label_column=None).labels is None


@pytest.mark.parametrize("name", WRITERS)
def test_columns_can_be_named(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, TEXTS, LABELS)
    rows = read_rows(path, text_column="label", label_column="text")
    assert (rows.texts, rows.labels) == (LABELS, TEXTS)


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_lists_of_labels_become_tuples(tmp_path: Path, write: Any) -> None:
    name = "r.jsonl" if write is write_jsonl else "r.parquet"
    path = write(tmp_path / name, ["t", "t", "t"], [["a", "b"], [], ["a"]])
    assert read_rows(path).labels == (("a", "b"), (), ("a",))


def test_numbers_and_booleans_become_their_str(tmp_path: Path) -> None:
    assert labels_of(tmp_path, [0, 1]) == ("0", "1")
    assert labels_of(tmp_path, [0.5, 1.0]) == ("0.5", "1.0")
    assert labels_of(tmp_path, [True, False]) == ("True", "False")
    assert labels_of(tmp_path, [[1, 2], [3]]) == (("1", "2"), ("3",))


def test_values_in_a_csv_file_stay_as_they_are_written(tmp_path: Path) -> None:
    path = written(tmp_path, "r.csv", "text,label\nNULL,001\nNA,true\n")
    rows = read_rows(path)
    assert (rows.texts, rows.labels) == (("NULL", "NA"), ("001", "true"))


def test_a_byte_order_mark_is_no_part_of_a_column_name(tmp_path: Path) -> None:
    path = written(tmp_path, "r.csv", b"\xef\xbb\xbftext,label\r\nx,a\r\n")
    assert read_rows(path).texts == ("x",)


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    for name, content in {
        "r.csv": "text,label\n\nx,a\n\n",
        "r.jsonl": '\n{"text": "x", "label": "a"}\r\n\n',
    }.items():
        assert read_rows(written(tmp_path, name, content)).texts == ("x",)


def test_a_csv_text_may_be_longer_than_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = write_csv(tmp_path / "r.csv", ["x" * (limit + 1)], ["a"])
    assert len(read_rows(path).texts[0]) == limit + 1
    assert csv.field_size_limit() == limit


def test_a_dictionary_encoded_parquet_column_is_read(tmp_path: Path) -> None:
    table = pa.table({"text": ["x", "y"], "label": pa.array(["a", "b"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "r.parquet")
    assert read_rows(tmp_path / "r.parquet").labels == ("a", "b")


def test_columns_that_are_not_asked_for_do_not_matter(tmp_path: Path) -> None:
    path = written(tmp_path, "r.jsonl", '{"text": "x", "n": 1}\n{"text": "y", "n": [null]}\n')
    assert read_rows(path, label_column=None).texts == ("x", "y")


HEADER = "text,label\n"
GOOD_LINE = '{"text": "x", "label": "a"}\n'

# File name, content, and what the message must say.
BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "unknown suffix": (
        "r.txt",
        "x",
        r"'\.txt', which is no known kind of file; give one of: \.parquet, \.csv, \.jsonl",
    ),
    "no suffix": ("rows", "x", "ends in ''"),
    "empty file": ("r.csv", "", "is empty"),
    "blank file": ("r.jsonl", "\n \n", "is empty"),
    "empty Parquet file": ("r.parquet", "", "is empty"),
    "a byte order mark alone": ("r.csv", b"\xef\xbb\xbf\n", "is empty"),
    "header alone": ("r.csv", HEADER, "columns but no rows"),
    "no Parquet": ("r.parquet", "PAR1 but not really", "not a readable Parquet file"),
    "missing column": (
        "r.csv",
        "texts,label\nx,a\n",
        r"no column 'text'; its columns are: 'texts', 'label'.*Did you mean 'texts'",
    ),
    "missing JSON column": ("r.jsonl", '{"text": "x", "tag": "a"}', "no column 'label'"),
    "column twice": ("r.csv", "text,text,label\nx,y,a\n", "more than one column named 'text'"),
    "empty text": (
        "r.csv",
        HEADER + "x,a\n,b\n  ,b\n",
        r"empty or null text in 2 of 3 rows, first in row 2 \(''\)",
    ),
    "null text": (
        "r.jsonl",
        GOOD_LINE + '{"text": null, "label": "a"}',
        r"null text in 1 of 2 rows, first in row 2 \(None\)",
    ),
    "absent text": ("r.jsonl", GOOD_LINE + '{"label": "a"}', "null text in 1 of 2 rows"),
    "number as text": (
        "r.jsonl",
        '{"text": 7, "label": "a"}',
        r"not a string in 1 of 1 rows, first in row 1 \(7\)",
    ),
    "half a surrogate pair": (
        "r.jsonl",
        '{"text": "\\ud83d", "label": "a"}',
        "half a surrogate pair in 1 of 1 rows",
    ),
    "empty label": ("r.csv", HEADER + "x,\n", "empty or null label in 1 of 1 rows"),
    "null label": (
        "r.jsonl",
        GOOD_LINE + '{"text": "y", "label": null}',
        r"empty or null label in 1 of 2 rows, first in row 2",
    ),
    "null in a list": ("r.jsonl", '{"text": "y", "label": ["a", null]}', "empty or null label"),
    "not a number": ("r.jsonl", '{"text": "y", "label": NaN}', "empty or null label"),
    "a mapping to no mark": (
        "r.jsonl",
        '{"text": "y", "label": {"a": 2}}',
        r"a mark that is neither 0 nor 1 in 1 of 1 rows, first in row 1 \(2\)",
    ),
    "a mapping of nulls": ("r.jsonl", '{"text": "y", "label": {"a": null}}', "null label in 1 of"),
    "list in a list": ("r.jsonl", '{"text": "y", "label": [["a"]]}', "label that is no name"),
    "lists and names": (
        "r.jsonl",
        GOOD_LINE + '{"text": "y", "label": ["a"]}',
        r"mixes kinds of labels \(a string in row 1 and a list in row 2\)",
    ),
    "numbers and names": (
        "r.jsonl",
        GOOD_LINE + '{"text": "y", "label": 1}',
        "a string in row 1 and a whole number in row 2",
    ),
    "mixed lists": (
        "r.jsonl",
        '{"text": "y", "label": ["a"]}\n{"text": "y", "label": ["b", true]}',
        "a string in row 1 and a boolean in row 2",
    ),
    "bad UTF-8 in CSV": (
        "r.csv",
        b"text,label\nx,a\ny\xff,b\n",
        r"not valid UTF-8 at line 3 \(byte offset 16\)",
    ),
    "bad UTF-8 behind a mark": (
        "r.csv",
        b"\xef\xbb\xbftext,label\ny\xff,b\n",
        r"not valid UTF-8 at line 2 \(byte offset 15\)",
    ),
    "bad UTF-8 in JSON": ("r.jsonl", b'{"text": "\xe9"}', r"line 1 \(byte offset 10\)"),
    "too many fields": ("r.csv", HEADER + "x,a\ny,z,b\n", "3 fields at line 3, but 2 columns"),
    "too few fields": ("r.csv", HEADER + '"x\ny",a\nz\n', "1 fields at line 4, but 2 columns"),
    "open quotes": ("r.csv", HEADER + 'x,a\n"y,b\nz,a\n', "not valid CSV at line 3"),
    "text behind quotes": ("r.csv", HEADER + '"y"y,b\n', "not valid CSV at line 2"),
    "broken JSON": ("r.jsonl", GOOD_LINE + "\n{'text': 1}\n", "not valid JSON at line 3"),
    "a number of too many digits": ("r.jsonl", "9" * 5000, "not valid JSON at line 1"),
    "JSON in one array": ("r.json", '[{"text": "x"}]', "no JSON object at line 1, but a list"),
    "indented JSON": ("r.json", '{\n  "text": "x"\n}', "not valid JSON at line 1"),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused_in_one_clear_sentence(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as raised:
        read_rows(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        read_rows(tmp_path / "none.csv")


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(DataError, match="folder without files"):
        read_rows(folder)


def test_bad_utf8_in_parquet_is_refused_with_its_row(tmp_path: Path) -> None:
    offsets, data = pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"x\xff")
    texts = pa.StringArray.from_buffers(2, offsets, data)
    pq.write_table(pa.table({"text": texts, "label": ["a", "b"]}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match="not valid UTF-8 in column 'text', row 2"):
        read_rows(tmp_path / "r.parquet")


def test_binary_texts_in_parquet_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "r.parquet", [b"x"], ["a"])
    with pytest.raises(DataError, match=r"not a string in 1 of 1 rows, first in row 1 \(b'x'\)"):
        read_rows(path)


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="columns but no rows"):
        read_rows(write_parquet(tmp_path / "r.parquet", [], []))


def test_a_missing_parquet_column_is_refused_with_the_present_ones(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "r.parquet", ["x"], ["a"])
    with pytest.raises(DataError, match=r"no column 'labels'.*'text', 'label'.*mean 'label'"):
        read_rows(path, label_column="labels")


def test_a_long_value_is_shortened_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.\.\.\)") as raised:
        labels_of(tmp_path, [[["x" * 1000]]])
    assert len(str(raised.value)) < 400
