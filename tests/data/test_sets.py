"""Several sets of rows become one, and labels that a set does not ask for count as not judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from pillion.data import (
    DataSet,
    JudgedLabels,
    LabelSpace,
    Rows,
    conflict_notes,
    join_sets,
    set_weights,
    split_validation,
)
from pillion.errors import DataError, PillionError


def rows(labels: list[Any], name: str = "memory", start: int = 0) -> Rows:
    return Rows.of([f"text {start + n}" for n in range(len(labels))], labels, name)


def a_set(
    name: str,
    labels: list[Any],
    renamed: Mapping[str, str] | None = None,
    share: float | None = None,
    start: int = 0,
) -> DataSet:
    return DataSet(name, rows(labels, f"folder/{name}.csv", start), renamed or {}, share)


def test_sets_with_the_same_two_labels_stay_binary() -> None:
    one = a_set("chat", ["toxic", "fine"])
    other = a_set("mod", ["flagged", "safe"], {"flagged": "toxic", "safe": "fine"}, start=9)
    joined = join_sets([one, other])
    assert joined.labels == ("toxic", "fine", "toxic", "fine")
    assert LabelSpace.of(joined.labels, None, joined.several).task == "binary"
    assert joined.texts == ("text 0", "text 1", "text 9", "text 10")
    assert joined.notes == ()


def test_a_set_of_positives_alone_stays_binary_too() -> None:
    joined = join_sets([a_set("chat", ["toxic", "fine"]), a_set("bad", ["toxic"] * 3, start=5)])
    assert joined.labels == ("toxic", "fine", "toxic", "toxic", "toxic")


def test_labels_that_a_set_does_not_have_are_masked_in_its_rows() -> None:
    one = a_set("chat", ["toxic", "fine"])
    joined = join_sets([one, a_set("mod", ["flagged", "safe"], {"flagged": "toxic"}, start=5)])
    assert joined.labels == (
        JudgedLabels(["toxic"], ["fine"]),
        JudgedLabels(["fine"], ["toxic"]),
        JudgedLabels(["toxic"], ["safe"]),
        JudgedLabels(["safe"], ["toxic"]),
    )
    space = LabelSpace.of(joined.labels, None, joined.several)
    assert (space.task, space.names) == ("multilabel", ("fine", "safe", "toxic"))
    nan = np.nan
    wanted = [[0, nan, 1], [1, nan, 0], [nan, 0, 1], [nan, 1, 0]]
    np.testing.assert_array_equal(space.encode(joined.labels), wanted)
    assert "'chat' on 'safe'; 'mod' on 'fine'" in joined.notes[-1]


def test_lists_and_marks_are_renamed_and_masked_alike() -> None:
    lists = a_set("lists", [["a", "b"], [], ["b"]], {"b": "c"})
    marks = a_set("marks", [{"c": 1, "d": None}, {"c": 0, "d": 1}], start=5)
    assert join_sets([lists, marks]).labels == (
        JudgedLabels(["a", "c"], []),
        JudgedLabels([], ["a", "c"]),
        JudgedLabels(["c"], ["a"]),
        JudgedLabels(["c"], []),
        JudgedLabels(["d"], ["c"]),
    )


def test_of_two_labels_that_become_one_a_row_has_it_if_it_has_either() -> None:
    merged = {"hate": "bad", "threat": "bad"}
    marks = [{"hate": 1, "threat": 0, "x": 1}, {"hate": 0, "threat": 0, "x": 0}]
    joined = join_sets([a_set("m", marks, merged)])
    assert joined.labels == (JudgedLabels(["bad", "x"], []), JudgedLabels([], ["bad", "x"]))


def test_an_unjudged_part_of_a_merged_label_leaves_it_unjudged() -> None:
    marks = [{"hate": None, "threat": 0, "x": 1}, {"hate": 0, "threat": 1, "x": 0}]
    joined = join_sets([a_set("m", marks, {"hate": "bad", "threat": "bad"})])
    assert joined.labels == (JudgedLabels(["x"], []), JudgedLabels(["bad"], ["x"]))


def test_every_row_still_knows_where_it_came_from() -> None:
    one, other = a_set("a", ["x", "y"]), a_set("b", ["x", "y", "x"], start=5)
    joined = join_sets([one, other])
    assert joined.numbers == [1, 2, 3, 4, 5]
    assert joined.place(4) == ("folder/b.csv", 2)
    assert joined.some([0, 4]).set_ids == (0, 1)
    assert joined.path == "a.csv + b.csv"
    facts = [(one.name, one.path, one.num_rows, one.labels) for one in joined.sets]
    assert facts == [("a", "a.csv", 2, ("x", "y")), ("b", "b.csv", 3, ("x", "y"))]
    assert joined.sets[1].sha256 == other.rows.sha256


def test_the_same_rows_under_other_names_are_other_data() -> None:
    plain = join_sets([a_set("a", ["x", "y"])])
    assert plain.sha256 != join_sets([a_set("a", ["x", "y"], {"x": "z"})]).sha256


def test_a_text_of_two_sets_is_on_one_side_of_the_split() -> None:
    one, other = a_set("a", ["x", "y"] * 20), a_set("b", ["x", "y"] * 20)
    joined = join_sets([one, other])
    ids = LabelSpace.of(joined.labels or ()).encode(joined.labels or ())
    train, held = split_validation(ids, 0.25, groups=joined.groups)
    assert not {joined.texts[row] for row in train} & {joined.texts[row] for row in held}
    assert len(held)


def test_a_text_that_stands_twice_in_one_of_its_sets_is_one_group_too() -> None:
    """The second one was free to go to the other side than the other set's."""
    one = DataSet("a", Rows.of(["Hi", "hi", "other"], ["x", "x", "y"], "a"))
    other = DataSet("b", Rows.of(["HI", "more", "more"], ["x", "y", "y"], "b"))
    assert join_sets([one, other]).groups == (0, 0, 1, 0, 2, 3)


def test_texts_are_in_conflict_only_where_both_sets_judged() -> None:
    one = a_set("a", [{"x": 1, "y": 0}])
    apart = join_sets([one, a_set("b", [{"x": 1, "z": 1}])])
    against = join_sets([one, a_set("b", [{"x": 0, "z": 1}])])
    told = [conflict_notes(r.texts, r.labels or (), r.numbers) for r in (apart, against)]
    assert [len(notes) for notes in told] == [0, 1]


def test_a_share_is_that_of_the_rows_of_a_set_together() -> None:
    sets = [a_set("a", ["x", "y"] * 3, share=0.5), a_set("b", ["x", "y"], start=9)]
    weights = set_weights(join_sets(sets))
    assert weights is not None and weights.mean() == pytest.approx(1)
    assert weights[:6].sum() == pytest.approx(weights[6:].sum())


def test_what_is_left_goes_to_the_rows_of_the_other_sets() -> None:
    names = ("a", "b", "c")
    parts = [a_set(n, ["x", "y"] * (1 + at), start=20 * at) for at, n in enumerate(names)]
    shared = DataSet("a", parts[0].rows, share=0.1)
    weights = set_weights(join_sets([shared, *parts[1:]]))
    assert weights is not None
    assert weights[:2].sum() == pytest.approx(1.2) and np.ptp(weights[2:]) == 0


def test_a_share_is_that_of_the_rows_of_two_sides_where_both_are_learnt_from() -> None:
    training = join_sets([a_set("a", ["x", "y"] * 3, share=0.5), a_set("b", ["x", "y"], start=9)])
    held = join_sets([a_set("b", ["y", "x", "x"], start=30)], training)
    weights = set_weights(training, held)
    assert weights is not None and weights.mean() == pytest.approx(1)
    assert weights[:6].sum() == pytest.approx(weights[6:].sum())
    assert set_weights(training, rows(["x"])) is None
    assert set_weights(training, join_sets([a_set("c", ["x", "y"])])) is None


def test_without_shares_every_row_counts_the_same() -> None:
    assert set_weights(join_sets([a_set("a", ["x", "y"]), a_set("b", ["x", "y"])])) is None
    assert set_weights(rows(["x", "y"])) is None


def test_validation_rows_take_labels_and_mapping_of_their_set() -> None:
    one = a_set("chat", ["toxic", "fine"])
    training = join_sets([one, a_set("mod", ["flagged", "safe"], {"flagged": "toxic"}, start=5)])
    held = join_sets([a_set("mod", ["flagged"], start=30)], training)
    assert held.labels == (JudgedLabels(["toxic"], ["safe"]),)
    with pytest.raises(PillionError, match=r"Unknown set 'other'; known: chat, mod"):
        join_sets([a_set("other", ["safe"])], training)


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        ([a_set("a", ["x", "y"]), a_set("a", ["x", "y"])], "Two sets are called 'a'"),
        ([a_set("a", ["x", "y"]), a_set("b", ["u", "v"])], "shares no label with the other"),
        ([a_set("a", ["x", "y"], {"z": "x"})], "Set 'a': Unknown label 'z'; known: x, y"),
        ([a_set("a", ["x", "y"], {"x": "y"})], "has a label of that name; map 'y' too"),
        ([a_set("a", ["x", "y"], share=1.5)], "give a share of the loss between 0 and 1"),
        ([a_set("a", ["x", "y"], share=0.5)], "add up to 0.5; wanted 1 where every set has"),
        (
            [a_set("a", ["x", "y"], share=1.0), a_set("b", ["x", "y"])],
            "add up to 1; wanted less than 1",
        ),
        ([DataSet("a", Rows.of(["x"], None, "f"))], "f has no labels"),
        ([a_set("\udce9", ["x", "y"])], "of a set or label is no UTF-8"),
        ([a_set("a", ["x", "y"], {"x": "\udce9"})], "of a set or label is no UTF-8"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_cannot_be_joined_is_said_in_a_sentence(sets: list[DataSet], sentence: str) -> None:
    with pytest.raises(PillionError, match=sentence) as caught:
        join_sets(sets)
    assert "\n" not in str(caught.value)


def test_sets_that_share_nothing_are_an_error_of_data() -> None:
    with pytest.raises(DataError):
        join_sets([a_set("a", ["x", "y"]), a_set("b", ["u", "v"])])
