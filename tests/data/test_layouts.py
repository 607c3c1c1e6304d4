"""Files as people have them: other delimiters and encodings, and lines that are no rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillion.data import Rows, TableLayout, read_rows
from pillion.errors import ConfigError, DataError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **layout: object) -> Rows:
    return read_rows(path, layout=TableLayout(**layout))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_delimiter_that_shows_the_columns_is_found_and_said(
    tmp_path: Path, delimiter: str
) -> None:
    """A file with semicolons was told to name the column `text;label`."""
    lines = ("text", "label"), ("x, y", "a"), ("z", "b")
    content = "\n".join(delimiter.join(line) for line in lines)
    rows = read_rows(written(tmp_path, "r.csv", content))
    assert (rows.texts, rows.labels) == (("x, y", "z"), ("a", "b"))
    assert len(rows.notes) == 1 and repr(delimiter) in rows.notes[0]


def test_a_delimiter_that_is_given_is_not_guessed(tmp_path: Path) -> None:
    path = written(tmp_path, "r.csv", "text:label\nx:a\n")
    assert read(path, delimiter=":").texts == ("x",) and not read(path, delimiter=":").notes
    with pytest.raises(DataError, match="no column 'text'; its columns are: 'text:label'"):
        read_rows(path)
    with pytest.raises(ConfigError, match="one character"):
        TableLayout(delimiter="::")


def test_a_tsv_file_has_tabs(tmp_path: Path) -> None:
    path = written(tmp_path, "r.tsv", "text\tlabel\nx;y\ta\n")
    assert read_rows(path).texts == ("x;y",) and not read_rows(path).notes


WORDS = "text,label\ncafé “très” bon – naïve,a\nÜber,b\n"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-32"])
def test_an_encoding_that_hardly_can_be_another_is_read_and_said(
    tmp_path: Path, encoding: str
) -> None:
    rows = read_rows(written(tmp_path, "r.csv", WORDS.encode(encoding)))
    assert rows.texts == ("café “très” bon – naïve", "Über")
    assert len(rows.notes) == 1 and encoding in rows.notes[0]


@pytest.mark.parametrize(
    ("encoding", "words"), [("shift_jis", "こんにちは"), ("cp1251", "привет"), ("gbk", "你好吗")]
)
def test_other_scripts_are_not_guessed_but_read_when_they_are_named(
    tmp_path: Path, encoding: str, words: str
) -> None:
    """Bytes of another script would be Western letters without a sense, unnoticed."""
    path = written(tmp_path, "r.csv", f"text,label\n{words},a\n".encode(encoding))
    with pytest.raises(DataError, match=r"not valid UTF-8 at line 2 .*name its encoding"):
        read_rows(path)
    assert read(path, encoding=encoding).texts == (words,)


def test_a_piece_of_utf8_among_bad_bytes_is_not_guessed_away(tmp_path: Path) -> None:
    path = written(tmp_path, "r.csv", b"text,label\ncaf\xc3\xa9,a\ncaf\xe9,b\n")
    with pytest.raises(DataError, match="not valid UTF-8 at line 3"):
        read_rows(path)


def test_json_is_utf8_unless_another_encoding_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "r.jsonl", '{"text": "café", "label": "a"}'.encode("cp1252"))
    with pytest.raises(DataError, match="not valid UTF-8"):
        read_rows(path)
    assert read(path, encoding="cp1252").texts == ("café",)


def test_an_encoding_that_does_not_fit_names_the_first_bad_byte(tmp_path: Path) -> None:
    path = written(tmp_path, "r.csv", "text,label\né,a\n".encode())
    with pytest.raises(DataError, match=r"not valid ascii at line 2 \(byte offset 11\)"):
        read(path, encoding="ascii")


@pytest.mark.parametrize("name", ["latin-99", "rot13", ""])
def test_an_unknown_encoding_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"encoding .* is unknown"):
        read(written(tmp_path, "r.csv", "text,label\nx,a\n"), encoding=name)


def test_a_mark_is_no_part_of_a_column_where_the_encoding_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "r.csv", "\ufefftext,label\nx,a\n")
    assert read(path, encoding="UTF8").texts == ("x",)


BAD_LINES = {
    "r.csv": "text,label\nx,a\ny,z,b\n,a\nw,\nv,b\n",
    "r.jsonl": """{"text": "x", "label": "a"}
{broken
{"text": "", "label": "a"}
{"text": "w", "label": null}
{"text": "v", "label": "b"}""",
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_rows_are_left_out_where_that_is_asked_for(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, BAD_LINES[name])
    rows = read(path, skip_bad_rows=True)
    assert (rows.texts, rows.labels) == (("x", "v"), ("a", "b"))
    assert [one.row for one in rows.failed] == [2, 3, 4]
    line, text, label = (one.reason for one in rows.failed)
    assert line.startswith("the file") and ("line 3" in line or "line 2" in line)
    assert "empty or null text" in text and "empty or null label" in label
    assert rows.origins is not None and [one.row for one in rows.origins] == [1, 5]
    assert rows.place(4) == (str(path), 4)
    with pytest.raises(DataError):
        read_rows(path)


def test_rows_all_of_which_are_bad_are_refused_all_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, "r.csv", "text,label\n,a\nx,\n")
    with pytest.raises(DataError, match="empty or null text in 1 of 2 rows, first in row 1"):
        read(path, skip_bad_rows=True)


def test_a_bad_row_of_a_folder_is_named_by_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    written(tmp_path / "rows", "a.csv", "text,label\nx,a\n")
    second = written(tmp_path / "rows", "b.csv", "text,label\ny,b\n,a\n")
    with pytest.raises(DataError, match=r"b\.csv has an empty .* in 1 of 2 rows, first in row 2"):
        read_rows(tmp_path / "rows")
    rows = read(tmp_path / "rows", skip_bad_rows=True)
    assert rows.place(rows.failed[0].row) == (str(second), 2)
