"""Sources of several files: folders, patterns and URLs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
import pytest

from pillion.data import read_rows, read_texts
from pillion.errors import ConfigError, DataError


def line(text: Any, label: str = "a") -> str:
    return json.dumps({"text": text, "label": label}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of different kinds, one of them deeper, and what a writer leaves beside them."""
    made = tmp_path / "rows"
    (made / "b").mkdir(parents=True)
    (made / "b" / "2.csv").write_text("text,label\nthree,b\n")
    (made / "a.jsonl").write_text(line("one") + line("two"))
    (made / "c.jsonl").write_text("")
    (made / "_SUCCESS").write_text("")
    (made / ".a.jsonl.crc").write_bytes(b"\xff")
    return made


def test_a_folder_gives_the_rows_of_its_files_in_the_order_of_their_paths(folder: Path) -> None:
    rows = read_rows(folder)
    assert rows.texts == ("one", "two", "three") and rows.labels == ("a", "a", "b")
    assert rows.path == str(folder)
    digests = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("a.jsonl", "b/2.csv", "c.jsonl")
    ]
    assert rows.sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_a_pattern_gives_the_files_that_match(folder: Path) -> None:
    assert read_rows(f"{folder}/*.jsonl").texts == ("one", "two")
    assert read_rows(f"{folder}/**/*.csv").texts == ("three",)
    with pytest.raises(DataError, match="does not exist"):
        read_rows(f"{folder}/*.parquet")


def test_an_object_store_gives_what_a_disk_gives(folder: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/bucket/rows", recursive=True)
    try:
        there = read_rows("memory://bucket/rows")
        assert (there.texts, there.sha256) == (read_rows(folder).texts, read_rows(folder).sha256)
        assert read_rows("memory://bucket/rows/a.jsonl").texts == ("one", "two")
        assert read_rows("memory://bucket/*/*.jsonl").texts == ("one", "two")
        with pytest.raises(DataError, match="memory://bucket/none does not exist"):
            read_rows("memory://bucket/none")
    finally:
        store.rm("/bucket", recursive=True)


def test_a_store_that_fsspec_lacks_a_package_for_is_reached_through_pyarrow(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Stores:
        @staticmethod
        def from_uri(uri: str) -> tuple[Any, str]:
            asked.append(uri)
            return pyarrow.fs.LocalFileSystem(), str(folder)

    def lacks(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", lacks)
    monkeypatch.setattr("pyarrow.fs.FileSystem", Stores)
    assert read_rows("s3://bucket/rows").texts == ("one", "two", "three")
    assert asked == ["s3://bucket/rows"]


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="nowhere://x cannot be opened"):
        read_rows("nowhere://x")


def test_a_folder_that_holds_something_else_is_refused_by_name(folder: Path) -> None:
    (folder / "more.jsonl.gz").write_bytes(gzip.compress(line("four").encode()))
    with pytest.raises(DataError, match=r"more\.jsonl\.gz, which is no known kind.*pattern"):
        read_rows(folder)
    assert len(read_rows(f"{folder}/*.jsonl")) == 2


def test_a_broken_row_is_named_by_its_file_and_its_place_there(folder: Path) -> None:
    (folder / "c.jsonl").write_text(line("four") + line(" "))
    with pytest.raises(DataError, match=r"c\.jsonl has an empty .* first in row 2"):
        read_rows(folder)
    (folder / "c.jsonl").write_text(line("four", ""))
    with pytest.raises(DataError, match=r"c\.jsonl has an empty or null label.* first in row 1"):
        read_rows(folder)


def test_labels_of_different_kinds_in_two_files_are_refused(folder: Path) -> None:
    (folder / "c.jsonl").write_text('{"text": "x", "label": 1}\n')
    with pytest.raises(DataError, match="mixes kinds of labels"):
        read_rows(folder)


def test_a_file_of_a_folder_that_lacks_a_column_is_named(folder: Path) -> None:
    (folder / "b" / "2.csv").write_text("txt,label\nthree,b\n")
    with pytest.raises(DataError, match=r"2\.csv has no column 'text'"):
        read_rows(folder)


# --- texts that fail by themselves


def test_texts_that_cannot_be_used_are_set_aside_with_their_reasons(folder: Path) -> None:
    (folder / "b" / "2.csv").write_text("text,label\n  ,b\n")
    (folder / "c.jsonl").write_text(line("four") + line(7) + line(None) + '{"text": "\\ud83d"}\n')
    texts = read_texts(folder)
    assert texts.texts == ("one", "two", None, "four", None, None, None)
    assert {one.row: one.reason for one in texts.failed} == {
        3: "an empty or null text; fill or remove it",
        5: "a text that is not a string; write it as a string",
        6: "an empty or null text; fill or remove it",
        7: "a text with half a surrogate pair; repair it",
    }
    assert [texts.place(row) for row in (1, 3, 4, 7)] == [
        (f"{folder}/a.jsonl", 1),
        (f"{folder}/b/2.csv", 1),
        (f"{folder}/c.jsonl", 1),
        (f"{folder}/c.jsonl", 4),
    ]


def test_a_file_without_a_single_usable_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(line("") + line(None))
    with pytest.raises(DataError, match="empty or null text in 2 of 2 rows"):
        read_texts(tmp_path / "r.jsonl")


def test_a_name_that_is_no_utf8_is_kept_as_it_can_be_written(tmp_path: Path) -> None:
    """The card names the file: after all the training it could not be written."""
    place = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")
    Path(place).write_text("text;label\none;a\ntwo;b\n")
    rows = read_rows(place)
    kept = [rows.path, rows.files[0][0], *rows.notes, read_texts(place).path]
    assert len(kept) == 4 and all("caf?.csv" in one and one.isascii() for one in kept)
