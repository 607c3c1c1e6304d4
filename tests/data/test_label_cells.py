"""Labels as tables hold them: lists however they are written, zeros and ones, several spellings."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pillion.data import JudgedLabels, LabelSpace, Rows, TableLayout, read_rows
from pillion.errors import ConfigError, DataError


def column(folder: Path, *labels: str, **layout: Any) -> Rows:
    """Rows of a CSV file with these labels."""
    with (folder / "r.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(f"text {n}", label) for n, label in enumerate(labels)]
        csv.writer(file).writerows([("text", "label"), *rows])
    return read_rows(folder / "r.csv", layout=TableLayout(**layout))


def of(labels: Any, **layout: Any) -> Rows:
    """Rows in memory with these labels."""
    texts = [f"text {n}" for n in range(len(labels))]
    return Rows.of(texts, labels, "memory", TableLayout(**layout))


@pytest.mark.parametrize(
    "cells", [('["a", "b"]', "[]", '["a"]'), ("['a', 'b']", "[]", "('a',)")], ids=["JSON", "Python"]
)
def test_lists_written_as_text_are_lists_and_it_is_said(
    tmp_path: Path, cells: tuple[str, ...]
) -> None:
    """Lists in JSON in a CSV column were as many classes as there were different lists."""
    rows = column(tmp_path, *cells)
    assert rows.labels == (("a", "b"), (), ("a",))
    (note,) = rows.notes
    assert "written as text, first in row 1" in note and "--multi-label" in note


def test_mappings_written_as_text_are_mappings(tmp_path: Path) -> None:
    rows = column(tmp_path, '{"a": 1, "b": 0}', "{'a': None, 'b': True}")
    assert rows.labels == (JudgedLabels(["a"], ["b"]), JudgedLabels(["b"]))


def test_lists_with_commas_are_lists_where_names_come_again(tmp_path: Path) -> None:
    rows = column(tmp_path, "a,b", "a", "b, c", "c", "a,b,c")
    assert rows.labels == (("a", "b"), ("a",), ("b", "c"), ("c",), ("a", "b", "c"))
    assert "lists with commas, first in row 1" in rows.notes[0]


def test_names_that_hold_a_comma_stay_whole_and_it_is_said(tmp_path: Path) -> None:
    rows = column(tmp_path, "Paris, France", "Lyon, France", "Rome")
    assert rows.labels == ("Paris, France", "Lyon, France", "Rome")
    assert "hold commas, first in row 1, and are taken as they are" in rows.notes[0]


def test_whether_labels_are_several_can_be_decided(tmp_path: Path) -> None:
    names = ("Paris, France", "Lyon, France")
    assert column(tmp_path, *names, multi_label=True).labels == (
        *(("Paris", "France"), ("Lyon", "France")),
    )
    cells = ('["a"]', '["b"]')
    assert column(tmp_path, *cells, multi_label=False).labels == cells
    rows = column(tmp_path, "a", "b", multi_label=True)
    assert rows.several and LabelSpace.of(rows.labels or (), several=True).task == "multilabel"
    with pytest.raises(DataError, match=r"has 2 labels in row 1, but --multi-label no"):
        of([["a", "b"], ["a"]], multi_label=False)


def test_a_list_beside_a_plain_name_is_refused_with_both_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a list in row 2 and a plain name in row 1"):
        column(tmp_path, "a", '["b"]')


@pytest.mark.parametrize(
    ("labels", "taken", "said"),
    [
        (("login", "login ", "login", "a"), ("login", "login", "login", "a"), r"'login ' \(row 2"),
        (("1", "0", "1.0", "1"), ("1", "0", "1", "1"), r"'1' \(row 1\) and '1.0' \(row 3\)"),
        (("Spam", "spam", "spam"), ("spam",) * 3, r"'spam' \(row 2\) and 'Spam' \(row 1\)"),
        (("a  b", "a b", "a b"), ("a b",) * 3, r"'a b' \(row 2\) and 'a  b' \(row 1\)"),
        ((" x", "y", " x"), ("x", "y", "x"), r"' x' \(row 1\) is read without the spaces"),
    ],
)
def test_spellings_of_one_label_are_one_label_and_it_is_said(
    tmp_path: Path, labels: tuple[str, ...], taken: tuple[str, ...], said: str
) -> None:
    """A space at the end of some labels made nine classes of five, one `1.0` three of two."""
    rows = column(tmp_path, *labels)
    assert rows.labels == taken
    assert re.search(said, rows.notes[0])


def test_a_label_that_reads_like_an_empty_cell_is_told() -> None:
    """numpy makes the word `nan` of a missing value among strings, and it became a class."""
    labels = np.array(["a", float("nan"), "b"])
    (note,) = Rows.of(["x", "y", "z"], labels, "memory").notes
    assert note.startswith("memory: Label 'nan' (row 2) reads like an empty cell")
    assert not Rows.of(["x", "y"], ["none", "na"], "memory").notes


@pytest.mark.parametrize("labels", [("001", "1"), ("1.5", "1.50"), ("a b", "ab")])
def test_labels_that_differ_otherwise_stay_two(tmp_path: Path, labels: tuple[str, ...]) -> None:
    rows = column(tmp_path, *labels)
    assert rows.labels == labels and not rows.notes


def test_columns_of_zeros_and_ones_are_labels_and_an_empty_cell_is_no_judgement(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.csv"
    path.write_text("text,a,b,c\nx,1,0,\ny,0.0,true,1.0\n")
    rows = read_rows(path, layout=TableLayout(label_columns=("a", "b", "c")))
    assert rows.labels == (JudgedLabels(["a"], ["b"]), JudgedLabels(["b", "c"], ["a"]))
    space = LabelSpace.of(rows.labels or ())
    assert space == LabelSpace(("a", "b", "c"), "multilabel")
    encoded = space.encode(rows.labels or ())
    assert encoded.dtype == np.float32
    assert np.array_equal(encoded, [[1, 0, np.nan], [0, 1, 1]], equal_nan=True)


def test_a_mark_that_is_neither_zero_nor_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("text,a,b\nx,1,maybe\n")
    with pytest.raises(DataError, match=r"neither 0 nor 1 in 1 of 1 rows, first in row 1 \('may"):
        read_rows(path, layout=TableLayout(label_columns=("a", "b")))


def test_label_columns_that_contradict_other_wishes_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave out multi_label=False"):
        TableLayout(label_columns=("a",), multi_label=False)
    with pytest.raises(ConfigError, match="not of turns"):
        TableLayout(label_columns=("a",), turn_labels=True)


def test_mappings_say_null_for_what_was_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"text": "x", "label": {"a": 1, "b": None}}, {"text": "y", "label": {"b": False}}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_rows(path).labels == (JudgedLabels(["a"]), JudgedLabels([], ["b"]))


class Frame:
    """What of a data frame is used: its columns, shape and columns by place."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = list(columns)
        self.shape = (len(next(iter(columns.values()))), len(columns))
        self.iloc = self
        self._columns = columns

    def __getitem__(self, place: tuple[slice, int]) -> np.ndarray:
        return np.array(self._columns[self.columns[place[1]]])


ONE_HOT = ([1, 0, 0], [0, 1, 1])


@pytest.mark.parametrize(
    "labels",
    [
        np.array(ONE_HOT),
        np.array(ONE_HOT, dtype=bool),
        np.array(ONE_HOT, dtype=np.float32),
        [list(row) for row in ONE_HOT],
    ],
    ids=["whole", "boolean", "decimal", "lists"],
)
def test_an_array_of_zeros_and_ones_has_a_column_a_label(labels: Any) -> None:
    """The labels of one-hot rows were the classes `0` and `1`."""
    rows = of(labels)
    has, lacks = ("label_0",), ("label_1", "label_2")
    assert rows.labels == (JudgedLabels(has, lacks), JudgedLabels(lacks, has))


def test_a_frame_of_zeros_and_ones_names_its_labels() -> None:
    rows = Rows.of(["x", "y"], Frame(a=[1, 0], b=[0, 1]), "memory")
    assert rows.labels == (JudgedLabels(["a"], ["b"]), JudgedLabels(["b"], ["a"]))
    names = pa.table({"a": [True, None], "b": [False, True]})
    assert Rows.of(["x", "y"], names, "memory").labels == (
        JudgedLabels(["a"], ["b"]),
        JudgedLabels(["b"]),
    )


def test_a_frame_of_one_column_is_its_column() -> None:
    """A frame of one column was one text, its name."""
    assert Rows.of(Frame(text=["x", "y"]), Frame(y=["a", "b"]), "memory").texts == ("x", "y")
    assert Rows.of(np.array([["x"], ["y"]]), ["a", "b"], "memory").texts == ("x", "y")


def test_a_frame_of_several_columns_is_refused_as_texts() -> None:
    with pytest.raises(DataError, match=r"table of 2 columns \('a', 'b'\) where texts are meant"):
        Rows.of(Frame(a=["x"], b=["y"]), ["a"], "memory")


def test_containers_with_an_order_give_their_items() -> None:
    for texts in (("x", "y"), iter(["x", "y"]), pa.array(["x", "y"]), np.array(["x", "y"], object)):
        assert Rows.of(texts, None, "memory").texts == ("x", "y")
    assert of(pa.chunked_array([["a"], ["b"]])).labels == ("a", "b")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("x", "one string where texts are meant"),
        ({"x": 1}, "a dict, which has no order, where texts"),
        ({"x"}, "a set, which has no order, where texts"),
        (7, "one int where texts are meant"),
        (np.array("x"), "one string where texts are meant"),
        ([], "has no rows"),
    ],
)
def test_containers_without_an_order_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Rows.of(texts, None, "memory")


def test_a_missing_label_is_refused_whatever_stands_for_it() -> None:
    class NAType:
        """Stands for the missing value of pandas, which is neither true nor false."""

        def __eq__(self, other: object) -> bool:
            raise TypeError("boolean value of NA is ambiguous")

    for nothing in (None, float("nan"), np.float64("nan"), NAType(), ""):
        with pytest.raises(
            DataError, match="an empty or null label in 1 of 2 rows, first in row 2"
        ):
            of(["a", nothing])
