"""What is told of the balance of labels."""

from __future__ import annotations

import numpy as np

from pillion.data import LabelCount, LabelSpace, balance_notes, conflict_notes, label_counts


def test_rows_of_each_label_are_counted_on_either_side() -> None:
    space = LabelSpace(("a", "b"), "binary")
    counts = label_counts(space, np.array([0, 0, 1]), np.array([1]))
    assert counts == (("a", 2, 0), ("b", 1, 1))
    space = LabelSpace(("a", "b"), "multilabel")
    counts = label_counts(space, np.array([[1, np.nan], [1, 1]]), np.array([[0, 0]]))
    assert counts == (("a", 2, 0), ("b", 1, 0))


def test_few_rows_and_an_empty_validation_are_told() -> None:
    few, unseen = balance_notes([LabelCount("a", 999, 20), LabelCount("b", 1, 0)])
    assert "fewer than 20 training rows" in few and "'b' (1)." in few and "'a'" not in few
    assert "Validation has no row of 'b':" in unseen
    assert balance_notes([LabelCount("a", 20, 1), LabelCount("b", 20, 1)]) == []


def test_texts_under_different_labels_are_told_with_the_rows_of_the_first() -> None:
    texts = ["x", "Y", "x", " y ", "x", "z"]
    (note,) = conflict_notes(texts, ["a", "b", "a", "a", "b", "a"], [1, 2, 3, 5, 6, 7])
    assert note == "2 texts stand under different labels, as in rows 2 and 5."
    assert conflict_notes(["x", "x"], [("a", "b"), ("b", "a")], [1, 2]) == []
