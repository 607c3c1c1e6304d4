"""Labels that are probabilities."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pillion.data import (
    DataSet,
    JudgedLabels,
    LabelSpace,
    Rows,
    SoftLabels,
    TableLayout,
    join_sets,
    read_rows,
)
from pillion.errors import DataError, PillionError

SOFT = TableLayout(soft=True)


def soft(cells: list[Any]) -> Rows:
    return Rows.of([f"text {n}" for n in range(len(cells))], cells, "memory", SOFT)


def test_probabilities_of_two_labels_that_add_to_one_are_a_binary_task() -> None:
    labels = soft([{"toxic": p, "not toxic": 1 - p} for p in (0.9, 0.25, 0.5, 1, 0)]).labels or ()
    space = LabelSpace.of(labels)
    assert (space.task, space.names) == ("binary", ("not toxic", "toxic"))
    np.testing.assert_array_equal(space.encode(labels), [1, 0, 1, 1, 0])
    np.testing.assert_allclose(space.goals(labels), [0.9, 0.25, 0.5, 1, 0])


def test_other_probabilities_are_a_multi_label_task_with_nothing_where_none_was_given() -> None:
    labels = soft([{"a": 0.75, "b": 0.25, "c": None}, {"a": 0.1, "c": 0.5}]).labels or ()
    space = LabelSpace.of(labels)
    assert (space.task, space.names) == ("multilabel", ("a", "b", "c"))
    np.testing.assert_array_equal(space.encode(labels), [[1, 0, np.nan], [0, np.nan, 1]])
    wanted = [[0.75, 0.25, np.nan], [0.1, np.nan, 0.5]]
    np.testing.assert_allclose(space.goals(labels), wanted, rtol=1e-6)


def test_hard_labels_have_no_goals_of_their_own() -> None:
    labels = ["x", "y", "x"]
    assert LabelSpace.of(labels).goals(labels) is None


def test_a_pair_may_be_asked_to_be_multi_label() -> None:
    layout = TableLayout(soft=True, multi_label=True)
    rows = Rows.of(["a"], [{"x": 0.3, "y": 0.7}], "memory", layout)
    assert LabelSpace.of(rows.labels or (), None, rows.several).task == "multilabel"


def test_the_column_of_probabilities_is_found_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "a", "soft_labels": {"x": 1, "y": 0}}) + "\n")
    rows = read_rows(path)
    assert rows.labels == (SoftLabels({"x": 1.0, "y": 0.0}),)
    assert "labels are probabilities, in column 'soft_labels'" in rows.notes[0]


def test_a_column_of_zeros_and_ones_stays_marks(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "a", "label": {"x": 1, "y": 0}}) + "\n")
    assert read_rows(path).labels == (JudgedLabels(["x"], ["y"]),)
    assert read_rows(path, layout=SOFT).labels == (SoftLabels({"x": 1.0, "y": 0.0}),)


def test_a_csv_file_holds_them_as_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,soft_labels\na,"{""x"": 0.2, ""y"": 0.8}"\n')
    assert read_rows(path).labels == (SoftLabels({"x": 0.2, "y": 0.8}),)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ({"x": 1.5}, "a value that is no probability"),
        ({"x": float("inf")}, "a value that is no probability"),
        ({"x": "much"}, "a value that is no probability"),
        ({"x": None}, "an empty or null label"),
        ({" ": 0.5}, "a label that is no name"),
        ("x", "a label that is no mapping"),
    ],
)
def test_what_is_no_probability_is_refused(cell: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        soft([{"x": 0.5, "y": 0.5}, cell])


def test_a_probability_where_marks_stand_says_how_it_is_read() -> None:
    with pytest.raises(DataError, match=r"probabilities are read with .*soft=True"):
        Rows.of(["a"], [{"x": 0.5}], "memory")


@pytest.mark.parametrize(
    "other", [{"label_columns": ("a",)}, {"turn_labels": True}, {"multi_label": False}]
)
def test_probabilities_are_no_other_kind_of_label(other: dict[str, Any]) -> None:
    with pytest.raises(PillionError, match="Probabilities stand in one column"):
        TableLayout(soft=True, **other)


def test_a_binary_set_and_probabilities_of_its_labels_stay_binary() -> None:
    plain = Rows.of(["p", "q"], ["toxic", "fine"], "memory")
    judged = soft([{"toxic": 0.8, "not toxic": 0.2}])
    joined = join_sets([DataSet("a", plain), DataSet("b", judged, {"not toxic": "fine"})])
    space = LabelSpace.of(joined.labels or (), None, joined.several)
    assert (space.task, space.names) == ("binary", ("fine", "toxic"))
    np.testing.assert_allclose(space.goals(joined.labels or ()), [1, 0, 0.8])
    held = join_sets([DataSet("b", soft([{"toxic": 0.1, "not toxic": 0.9}]))], joined)
    np.testing.assert_array_equal(space.encode(held.labels or ()), [0])


def test_probabilities_of_other_labels_are_masked_in_plain_rows() -> None:
    plain = Rows.of(["p", "q"], ["toxic", "fine"], "memory")
    joined = join_sets([DataSet("a", plain), DataSet("b", soft([{"toxic": 0.8, "rude": 0.4}]))])
    space = LabelSpace.of(joined.labels or (), None, joined.several)
    nan = np.nan
    wanted = [[0, nan, 1], [1, nan, 0], [nan, 0.4, 0.8]]
    np.testing.assert_allclose(space.goals(joined.labels or ()), wanted, rtol=1e-6)


def test_two_probabilities_do_not_become_one_label() -> None:
    rows = soft([{"hate": 0.5, "threat": 0.3, "x": 0}])
    with pytest.raises(DataError, match="probabilities of their own"):
        join_sets([DataSet("a", rows, {"hate": "bad", "threat": "bad"})])


def test_copies_are_equal_and_others_are_not() -> None:
    one = SoftLabels({"x": 0.2, "y": 0.8})
    assert pickle.loads(pickle.dumps(one)) == one == copy.copy(one)
    assert hash(one) == hash(SoftLabels({"x": 0.2, "y": 0.8}))
    assert one != SoftLabels({"x": 0.3, "y": 0.8}) and one != JudgedLabels(["y"], ["x"])
    assert soft([{"x": 0.2, "y": 0.8}]).sha256 != soft([{"x": 0.3, "y": 0.8}]).sha256
