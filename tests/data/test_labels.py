"""Label spaces: which task labels make, which label is positive, and their ids."""

from __future__ import annotations

import numpy as np
import pytest

from pillion.data import LabelSpace
from pillion.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("positive", "negative"), ("negative", "positive")),
        (("no", "yes"), ("no", "yes")),
        (("safe", "unsafe"), ("safe", "unsafe")),
        (("Safe", "Attack"), ("Safe", "Attack")),
        (("safe", "not_safe"), ("safe", "not_safe")),
        (("toxic", "non-toxic"), ("non-toxic", "toxic")),
        (("hallucination", "no hallucination"), ("no hallucination", "hallucination")),
        (("1", "0"), ("0", "1")),
        (("True", "False"), ("False", "True")),
        (("spam", "ham"), ("ham", "spam")),
        (("b", "a"), ("a", "b")),
        (("no", "none"), ("no", "none")),
    ],
)
def test_of_two_labels_the_usual_negative_comes_first(
    names: tuple[str, str], wanted: tuple[str, str]
) -> None:
    space = LabelSpace.of([*names, names[0]])
    assert space == LabelSpace(wanted, "binary")
    assert space == LabelSpace.of([*names[::-1], names[0]])


def test_the_given_positive_label_outranks_the_usual_negative() -> None:
    assert LabelSpace.of(["safe", "unsafe"], positive="safe").names == ("unsafe", "safe")


def test_a_positive_label_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'unsafe'"):
        LabelSpace.of(["safe", "unsafe"], positive="unsave")


def test_a_positive_label_of_three_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiclass task with 3 labels"):
        LabelSpace.of(["a", "b", "c"], positive="a")


def test_three_labels_are_multiclass_in_sorted_order() -> None:
    space = LabelSpace.of(["c", "a", "b", "a"])
    assert space == LabelSpace(("a", "b", "c"), "multiclass")
    assert space.encode(["b", "a", "c"]).tolist() == [1, 0, 2]


def test_single_label_ids_are_int64_and_multilabel_ones_float32() -> None:
    assert LabelSpace.of(["a", "b"]).encode(["b"]).dtype == np.int64
    assert LabelSpace.of([("a", "b"), ()]).encode([("a",)]).dtype == np.float32


def test_lists_of_several_labels_are_multilabel() -> None:
    space = LabelSpace.of([("b", "a"), (), ("c",)])
    assert space == LabelSpace(("a", "b", "c"), "multilabel")
    assert space.encode([("c", "a"), (), "b", ("a", "a")]).tolist() == [
        [1, 0, 1],
        [0, 0, 0],
        [0, 1, 0],
        [1, 0, 0],
    ]


def test_lists_of_one_label_each_are_single_label() -> None:
    space = LabelSpace.of([("yes",), ("no",)])
    assert space == LabelSpace(("no", "yes"), "binary")
    assert space.encode([("yes",), "no"]).tolist() == [1, 0]


def test_ids_are_the_places_of_the_names() -> None:
    labels = ["x", "z", "y", "x"]
    space = LabelSpace.of(labels)
    assert [space.names[label_id] for label_id in space.encode(labels)] == labels


def test_no_labels_encode_to_an_empty_array_of_the_same_kind() -> None:
    assert LabelSpace.of(["a", "b"]).encode([]).shape == (0,)
    assert LabelSpace.of([("a", "b"), ()]).encode([]).shape == (0, 2)


@pytest.mark.parametrize("labels", [["x", "x"], [("x",), ("x",)], [("x",), ()]])
def test_one_label_alone_is_refused(labels: list[str]) -> None:
    with pytest.raises(DataError, match="got only 'x'; a probe needs at least two"):
        LabelSpace.of(labels)


def test_no_label_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="got none; a probe needs at least two"):
        LabelSpace.of([])


def test_unseen_labels_are_refused_by_name_and_row() -> None:
    space = LabelSpace.of(["a", "b", "c"])
    with pytest.raises(DataError, match=r"'d', 'e', first in row 2; known: 'a', 'b', 'c'"):
        space.encode(["a", "d", "e", "d"])


def test_many_unseen_labels_are_named_in_part() -> None:
    with pytest.raises(DataError, match="'4' and 3 more, first in row 1"):
        LabelSpace.of(["a", "b"]).encode([str(number) for number in range(8)])


def test_two_labels_in_a_row_of_a_single_label_task_are_refused() -> None:
    with pytest.raises(DataError, match="2 labels in row 2"):
        LabelSpace.of(["a", "b"]).encode(["a", ("a", "b")])


def test_names_that_do_not_make_a_space_are_refused() -> None:
    with pytest.raises(ConfigError, match="not unique"):
        LabelSpace(("a", "a"), "binary")
    with pytest.raises(ConfigError, match="3 label names for a binary task; give two"):
        LabelSpace(("a", "b", "c"), "binary")
