"""What cells make: a text, turns, or what is wrong with them and what to do."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from pillion.core import Turn
from pillion.data.cells import UnusableCell, is_blank, text_of
from pillion.data.judged_labels import JudgedLabels, SoftLabels, judged, names_of
from pillion.data.spelling import one_spelling
from pillion.errors import DataError

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
TURNS = (Turn("user", "hi"), Turn("assistant", "hello"))
LONE = "a \ud83d"


def reason(form: Any, *cells: Any) -> str:
    found = text_of(form, cells)
    assert isinstance(found, UnusableCell)
    return found.reason


def test_a_text_stays_as_it_is_and_messages_in_its_place_are_turns() -> None:
    assert text_of("text", [" two words "]) == " two words "
    assert text_of("text", [TALK]) == TURNS
    assert text_of("text", [json.dumps(TALK)]) == json.dumps(TALK), "a text may look like a list"


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (None, "an empty or null text; fill or remove it"),
        (" \n\t", "an empty or null text; fill or remove it"),
        (5, "a text that is not a string; write it as a string"),
        (["a", "b"], "a text that is not a string; write it as a string"),
        ([], "a text that is not a string; write it as a string"),
        (LONE, "a text with half a surrogate pair; repair it"),
        ([{"role": "user", "content": LONE}], "a turn with half a surrogate pair; repair it"),
    ],
)
def test_a_cell_that_is_no_text_says_what_to_do_and_none_of_its_words(cell: Any, why: str) -> None:
    assert reason("text", cell) == why


def test_messages_may_be_a_list_or_one_in_json() -> None:
    assert text_of("messages", [TALK]) == text_of("messages", [json.dumps(TALK)]) == TURNS
    assert text_of("messages", [TURNS]) == TURNS


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (None, "an empty or null conversation; fill or remove it"),
        ("", "an empty or null conversation; fill or remove it"),
        ("hi", "messages that are neither a list nor one in JSON; write it as a list"),
        ("[" * 100_000, "messages that are neither a list nor one in JSON"),
        ("{}", "a conversation is a list of messages"),
        ("[]", "the conversation has no turns"),
        ([{"role": "user", "content": " "}], "turn 1 (user) is empty"),
    ],
)
def test_what_is_no_conversation_says_so(cell: Any, why: str) -> None:
    assert reason("messages", cell).startswith(why)


def test_a_prompt_and_its_response_are_turns_whatever_the_prompt_is() -> None:
    assert text_of("prompt", ["hi", "hello"]) == TURNS
    assert text_of("prompt", [TALK[:1], "hello"]) == TURNS
    assert text_of("prompt", [json.dumps(TALK[:1]), "hello"]) == TURNS
    assert text_of("prompt", ["hi", TALK[1:]]) == TURNS
    for odd in ("[not json", '["a", "b"]', "[]"):
        assert text_of("prompt", [odd, "hello"]) == (Turn("user", odd), TURNS[1])


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ((None, "x"), "an empty or null prompt; fill or remove it"),
        (("x", " "), "an empty or null response; fill or remove it"),
        (("x", 5), "a text that is not a string"),
        (("x", TALK[:1]), "the response does not end with the assistant's turn; end it so."),
        (([{"role": "boss", "content": "x"}], "y"), "turn 1 has the unknown role 'boss'"),
        ((LONE, "y"), "a turn with half a surrogate pair"),
        (("x", LONE), "a text with half a surrogate pair"),
    ],
)
def test_a_pair_that_cannot_be_used_names_the_part(cells: tuple[Any, Any], why: str) -> None:
    assert reason("prompt", *cells).startswith(why)


def test_a_cell_of_white_space_is_blank_and_a_zero_is_not() -> None:
    assert is_blank(None) and is_blank(" \t") and not is_blank(0) and not is_blank("a")


# --- labels in several spellings


def spelled(*labels: Any) -> tuple[list[Any], list[str]]:
    return one_spelling(labels, range(1, len(labels) + 1))


def test_the_commonest_spelling_of_a_label_is_taken_and_said_with_its_first_rows() -> None:
    found, notes = spelled("Yes", "yes", "yes ", "yes", "no")
    assert found == ["yes", "yes", "yes", "yes", "no"]
    assert notes == [
        "Labels 'yes' (row 2) and 'Yes' (row 1) and 'yes ' (row 3) differ by spaces, case or a "
        "decimal zero alone: one label, 'yes'."
    ]


def test_a_decimal_zero_and_inner_spaces_are_brought_together_and_other_decimals_are_not() -> None:
    assert spelled("1", "1.0", "1.00", "1.5")[0] == ["1", "1", "1", "1.5"]
    assert spelled("-2", "-2.0")[0] == ["-2", "-2"]
    assert spelled("a  b", "a b", "a b", "ab")[0] == ["a b", "a b", "a b", "ab"]


def test_spaces_around_a_label_are_left_out_and_that_is_said() -> None:
    found, notes = spelled(" spam", " spam", "ham")
    assert found == ["spam", "spam", "ham"]
    assert notes == ["Label ' spam' (row 1) is read without the spaces around it."]


def test_labels_that_are_spelled_alike_stay_and_nothing_is_said() -> None:
    assert spelled("a", "b", ("a", "b"), ()) == (["a", "b", ("a", "b"), ()], [])


def test_a_word_that_an_empty_cell_becomes_is_pointed_out_with_its_row() -> None:
    found, notes = spelled("a", "NaN", "b")
    assert found == ["a", "NaN", "b"]
    assert len(notes) == 1 and notes[0].startswith("Label 'NaN' (row 2) reads like an empty cell")
    assert spelled("nancy", "none")[1] == []


def test_only_so_many_labels_of_several_spellings_are_listed() -> None:
    labels = [name for i in range(8) for name in (f"l{i}", f"L{i}")]
    notes = spelled(*labels)[1]
    assert len(notes) == 6 and notes[-1] == "... and 3 more labels with several spellings."


def test_several_labels_of_a_row_become_one_where_they_are_one() -> None:
    found, _ = spelled(("a", "A", "b"), ("a",))
    assert found[0] == ("a", "b")
    judged, _ = spelled(JudgedLabels(("a",), ("B", "b")), ("b",))
    assert judged[0] == JudgedLabels(("a",), ("b",))


def test_a_row_that_has_and_lacks_a_label_by_two_spellings_is_refused() -> None:
    with pytest.raises(DataError, match=r"both has and lacks the label 'a'.*in two spellings"):
        spelled(JudgedLabels(("A",), ("a",)), ("a",))


def test_probabilities_of_labels_keep_their_numbers_under_the_new_name() -> None:
    soft = SoftLabels({"Yes": 0.25, "no": 0.75})
    found, _ = spelled(soft, "yes", "yes")
    assert dict(found[0].probs) == {"yes": 0.25, "no": 0.75}


# --- what a row was judged for


def test_labels_that_were_not_judged_make_two_rows_differ() -> None:
    some, all_of = JudgedLabels(("a",), ("b",)), JudgedLabels(("a",), ("b", "c"))
    assert some != all_of and some != ("a",) and some == JudgedLabels(["a"], ["b"])
    assert all_of == JudgedLabels(("a",), ("c", "b")) and hash(all_of) == hash(
        JudgedLabels(("a",), ("c", "b"))
    )
    assert judged(some) == ("a", "b") and judged("x") == ("x",) and names_of("x") == ("x",)


def test_a_copy_and_another_process_keep_what_was_not_judged() -> None:
    for one in (JudgedLabels(("a",), ("b",)), SoftLabels({"a": 0.9, "b": 0.1})):
        for copied in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert copied == one and copied.lacks == one.lacks and type(copied) is type(one)


def test_probabilities_are_cut_at_one_half_for_code_that_wants_names() -> None:
    soft = SoftLabels({"a": 0.5, "b": 0.49})
    assert tuple(soft) == ("a",) and soft.lacks == ("b",)
    assert soft != SoftLabels({"a": 0.6, "b": 0.49}) and soft != JudgedLabels(("a",), ("b",))


def test_two_probabilities_that_add_to_one_are_a_pair() -> None:
    assert SoftLabels({"a": 0.3, "b": 0.7}).is_pair
    assert not SoftLabels({"a": 0.3, "b": 0.6}).is_pair
    assert not SoftLabels({"a": 0.2, "b": 0.3, "c": 0.5}).is_pair
    assert not SoftLabels({"a": 1.0}).is_pair


def test_two_probabilities_never_become_one_labels() -> None:
    with pytest.raises(DataError, match="'A', 'a' have probabilities of their own"):
        SoftLabels({"A": 0.3, "a": 0.7}).renamed(str.lower)
