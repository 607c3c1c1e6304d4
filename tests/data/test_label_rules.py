"""The rules of label cells and columns one by one, on values and without any file."""

from __future__ import annotations

from typing import Any

import pytest

from pillion.core import Turn
from pillion.data import TableLayout
from pillion.data.encodings import decode
from pillion.data.judged_labels import JudgedLabels, SoftLabels
from pillion.data.label_cells import cell_fault, soft_fault, spelled_out, to_labels, to_soft
from pillion.data.layout import check_columns, choose_columns
from pillion.data.text_notes import shared_note, text_notes
from pillion.data.turn_labels import has_turn_labels, is_null, turn_fault
from pillion.errors import ConfigError, DataError, MissingColumn

NAN = float("nan")
TALK = (Turn("user", "q"), Turn("assistant", "a"))


def numbered(*cells: Any) -> list[tuple[int, Any]]:
    return list(enumerate(cells, start=1))


# --- one cell


@pytest.mark.parametrize("cell", ["a", 3, True, 0.5, ["a", "b"], [1, 2], {"a": 1, "b": None}, []])
def test_names_lists_of_them_and_mappings_to_yes_and_no_are_labels(cell: Any) -> None:
    assert cell_fault(cell) is None


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        (None, "an empty or null label"),
        (" ", "an empty or null label"),
        (NAN, "an empty or null label"),
        (["a", None], "an empty or null label"),
        ([["a"]], "a label that is no name"),
        (b"a", "a label that is no name"),
        ({1: True}, "a label that is no name"),
        ({" ": 1}, "a label that is no name"),
        ({"a": 0.4}, "a mark that is neither 0 nor 1"),
        ({"a": "maybe"}, "a mark that is neither 0 nor 1"),
        ({"a": None, "b": ""}, "an empty or null label"),
        ({}, "an empty or null label"),
    ],
)
def test_what_is_no_label_is_told_with_what_to_do(cell: Any, what: str) -> None:
    found = cell_fault(cell)
    assert found is not None and found.what == what and found.remedy


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("a", "a label that is no mapping"),
        ({1: 0.5}, "a label that is no name"),
        ({"a": 1.5}, "a value that is no probability"),
        ({"a": -0.1}, "a value that is no probability"),
        ({"a": "often"}, "a value that is no probability"),
        ({"a": [0.5]}, "a value that is no probability"),
        ({"a": None, "b": NAN}, "an empty or null label"),
    ],
)
def test_what_is_no_probability_is_told(cell: Any, what: str) -> None:
    found = soft_fault(cell)
    assert found is not None and found.what == what and found.remedy


def test_probabilities_may_be_words_of_numbers_and_a_null_has_none() -> None:
    cells = [{"a": "0.25", "b": 1, "c": None}, {"a": 0, "b": True}]
    assert all(soft_fault(cell) is None for cell in cells)
    assert to_soft(numbered(*cells)) == [
        SoftLabels({"a": 0.25, "b": 1.0}),
        SoftLabels({"a": 0.0, "b": 1.0}),
    ]
    assert is_null(None) and is_null(NAN) and not is_null(0) and not is_null("")


# --- a column


def test_lists_in_json_or_as_python_writes_them_are_lists() -> None:
    cells, note = spelled_out(numbered('["a", "b"]', "['a']", "('b', 'c')", '{"a": 1}'), "t.csv")
    assert [cell for _, cell in cells] == [["a", "b"], ["a"], ["b", "c"], {"a": 1}]
    assert note.startswith("t.csv: labels are lists or mappings written as text, first in row 1")
    plain = numbered("a", "b[0]", "(broken", "[1")
    assert spelled_out(plain, "t.csv") == (plain, "")


def test_a_plain_name_among_lists_is_refused_with_both_rows() -> None:
    with pytest.raises(DataError, match=r"a list in row 2 and a plain name in row 1"):
        spelled_out(numbered("a", '["b"]'), "t.csv")


def test_no_code_in_a_cell_is_run_and_a_deep_one_is_a_name() -> None:
    cells = numbered("[__import__('os').getcwd()]", "[" * 5000)
    assert spelled_out(cells, "t.csv") == (cells, "")


@pytest.mark.parametrize(
    ("cells", "multi_label", "labels"),
    [
        (["a", "b"], None, ["a", "b"]),
        (["a", "b"], True, [("a",), ("b",)]),
        (["a,b", "b", "a"], None, [("a", "b"), ("b",), ("a",)]),
        (["a, b", "c"], False, ["a, b", "c"]),
        (["a,b", "c"], True, [("a", "b"), ("c",)]),
        (["New York, NY", "Rome, IT"], None, ["New York, NY", "Rome, IT"]),
        ([1, 2], None, ["1", "2"]),
        ([True, False], None, ["True", "False"]),
        ([["a"], []], None, [("a",), ()]),
        ([["a"], ["b"]], False, ["a", "b"]),
        ([[0, 1], [1, 1]], None, [JudgedLabels(["label_1"], ["label_0"])]),
        ([{"a": 1, "b": "no", "c": None}], None, [JudgedLabels(["a"], ["b"])]),
    ],
)
def test_cells_become_names_or_several(
    cells: list[Any], multi_label: bool | None, labels: list[Any]
) -> None:
    found, _ = to_labels(numbered(*cells), multi_label, "t.csv")
    assert found[: len(labels)] == labels and len(found) == len(cells)


@pytest.mark.parametrize(
    ("cells", "multi_label", "why"),
    [
        (["a", 1], None, "mixes kinds of labels .a string in row 1 and a whole number in row 2"),
        ([True, 1], None, "a boolean in row 1 and a whole number in row 2"),
        ([["a"], "b"], None, "a list in row 1 and a string in row 2"),
        ([["a", 1]], None, "a string in row 1 and a whole number in row 1"),
        ([["a", "b"]], False, "has 2 labels in row 1, but --multi-label no"),
        ([["a"], []], False, "has 0 labels in row 2"),
        ([{"a": 1}], False, "has a mapping in row 1"),
    ],
)
def test_cells_of_several_kinds_or_too_many_labels_are_refused(
    cells: list[Any], multi_label: bool | None, why: str
) -> None:
    with pytest.raises(DataError, match=why):
        to_labels(numbered(*cells), multi_label, "t.csv")


def test_what_was_taken_for_a_list_or_for_a_name_is_said() -> None:
    assert (
        "lists with commas, first in row 1" in to_labels(numbered("a,b", "b", "a"), None, "t")[1][0]
    )
    assert "are taken as they are" in to_labels(numbered("x, y", "z"), None, "t")[1][0]
    assert "mark labels by place" in to_labels(numbered([0, 1], [1, 0]), None, "t")[1][0]
    assert to_labels(numbered("a", "b"), None, "t")[1] == []
    assert to_labels([], None, "t") == ([], [])


# --- labels of turns


def turns(*cells: Any) -> bool:
    return has_turn_labels(list(cells), [TALK] * len(cells), range(1, len(cells) + 1), "t.jsonl")


def test_a_null_or_a_repeat_in_lists_as_long_as_the_turns_labels_the_turns() -> None:
    assert turns(["a", None], ["a", "b"]) and turns(["a", "a"]) and turns([["a"], "b"])
    assert not turns(["a"], ["a", "b"]), "another length: names of the row"
    assert not turns("a", "b")


def test_lists_that_may_be_either_or_neither_are_not_guessed() -> None:
    with pytest.raises(DataError, match=r"first in row 1: they may be a label a turn.*--turn-lab"):
        turns(["a", "b"])
    with pytest.raises(DataError, match=r"1 labels for 2 turns in row 2.*turns in row 1"):
        turns(["a", None], ["a"])


@pytest.mark.parametrize(
    ("cell", "text", "what"),
    [
        (["a"], "alone", "labels of turns for a text without turns"),
        ("a", TALK, "a label where a list with one for each turn is meant"),
        (["a"], TALK, "1 labels for 2 turns"),
        ([None, NAN], TALK, "no label for any of its turns"),
    ],
)
def test_a_row_whose_turns_are_not_labelled_is_told(cell: Any, text: Any, what: str) -> None:
    found = turn_fault(cell, text)
    assert found is not None and found.what == what and found.remedy
    assert turn_fault([None, "a"], TALK) is None


# --- columns


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"delimiter": ";;"}, "The delimiter is ';;'; give one character"),
        ({"delimiter": ""}, "give one character"),
        ({"label_columns": ("a",), "multi_label": False}, "leave out multi_label=False"),
        ({"label_columns": ("a",), "turn_labels": True}, "labels of rows, not of turns"),
        ({"soft": True, "label_columns": ("a",)}, "Probabilities stand in one column"),
        ({"messages_column": "m", "response_column": "r"}, "name columns of one"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(options: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        TableLayout(**options)


def chosen(
    *present: str, text: str | None = None, label: str | None = "label", **layout: Any
) -> Any:
    return choose_columns(present, "t.csv", text, label, TableLayout(**layout))


def test_columns_are_found_by_their_names_and_what_was_found_is_said() -> None:
    assert chosen("text", "label").names == ["text", "label"]
    assert chosen("messages", "text", "label").form == "text", "texts go before conversations"
    talk = chosen("messages", "label")
    assert talk.form == "messages" and "rows are conversations" in talk.notes[0]
    pair = chosen("prompt", "response", "label")
    assert pair.text == ("prompt", "response") and "a prompt and its response" in pair.notes[0]
    assert chosen("q", "response", "label", prompt_column="q").text == ("q", "response")
    assert chosen("text", label=None).labels == ()


def test_a_table_without_labels_by_that_name_may_have_those_of_turns_or_probabilities() -> None:
    by_turns = chosen("messages", "turn_labels")
    assert by_turns.turn_labels and by_turns.labels == ("turn_labels",) and len(by_turns.notes) == 2
    soft = chosen("text", "labels_soft", "soft_labels")
    assert soft.soft and "probabilities" in soft.notes[0]


def test_some_label_columns_may_lack_and_not_all() -> None:
    wanted = {"label_columns": ("a", "b"), "some_columns": True}
    assert chosen("text", "b", **wanted).labels == ("b",)
    with pytest.raises(MissingColumn, match="no column 'a'"):
        chosen("text", "c", **wanted)


def test_a_missing_column_is_named_with_those_there_and_what_it_would_hold() -> None:
    def missing(*present: str, **how: Any) -> MissingColumn:
        with pytest.raises(MissingColumn) as caught:
            chosen(*present, **how)
        return caught.value

    error = missing("texts", "label")
    assert "its columns are: 'texts', 'label'" in str(error) and "Did you mean 'texts'?" in str(
        error
    )
    assert error.holds == "text"
    assert missing("text", "y").holds == "label"
    assert missing("text", "label", text="words").holds is None, "the user named it"
    assert "are: none" in str(missing())


def test_a_column_twice_and_texts_beside_conversations_are_refused() -> None:
    with pytest.raises(DataError, match="more than one column named 'text'"):
        check_columns(["text", "text"], ["text"], "t.csv")
    with pytest.raises(ConfigError, match=r"texts .'a'. or conversations .'m'."):
        chosen("a", "m", text="a", messages_column="m")


# --- encodings


def test_a_mark_at_the_beginning_says_the_encoding_and_is_no_character() -> None:
    for name in ("utf-8-sig", "utf-16", "utf-32"):
        text, note = decode("é,b".encode(name), "t.csv", None, True)
        assert text == "é,b" and (name == "utf-8-sig") == (note == "")


def test_western_letters_are_guessed_and_said_and_other_bytes_are_refused_by_line() -> None:
    text, note = decode("Grüße aus Köln, schöne".encode("cp1252"), "t.csv", None, True)
    assert text == "Grüße aus Köln, schöne" and "is no UTF-8 and is read as" in note
    with pytest.raises(DataError, match=r"t\.csv is not valid UTF-8 at line 2 .byte offset 3"):
        decode(b"ok\n\xff\xfe\xfd\xfc\xfb\xfa", "t.csv", None, True)
    for data, may_guess in (("Grüße".encode("cp1252"), False), (b"Gr\xfcn and fine\0", True)):
        with pytest.raises(DataError, match="is not valid UTF-8 at line 1"):
            decode(data, "t.jsonl", None, may_guess)


def test_an_encoding_that_is_named_is_taken_and_an_unknown_one_refused() -> None:
    assert decode("日本".encode("shift_jis"), "t.csv", "shift_jis", True) == ("日本", "")
    assert decode("é".encode("utf-8-sig"), "t.csv", "utf-8", True) == ("é", "")
    with pytest.raises(DataError, match="is not valid ascii at line 1"):
        decode("é".encode(), "t.csv", "ascii", True)
    for name in ("klingon", "base64", "a\0b"):
        with pytest.raises(ConfigError, match="is unknown; give one that Python knows"):
            decode(b"a", "t.csv", name, True)


# --- notes on texts


def test_few_texts_alike_and_far_longer_ones_are_told_without_their_words() -> None:
    texts = [f"order {chr(97 + i % 26)}{chr(97 + i // 26)}x" for i in range(200)]
    assert text_notes(texts, {}) == []
    assert text_notes(texts[:5], {})[0].startswith("Only 5 rows")
    alike = text_notes([*texts, *(text.upper() + " 7!" for text in texts[:10])], {})
    assert len(alike) == 1 and alike[0].startswith("10 of 210 texts have the words of an earlier")
    (long,) = text_notes([*texts, "x" * 5000], {})
    assert long.startswith("1 text is more than 20 times as long") and "5,000" in long
    assert not any("order" in note for note in [*alike, long])


def test_validation_rows_that_were_learnt_from_are_counted() -> None:
    texts = [f"order {i}" for i in range(100)]
    assert shared_note(texts, [f"other {i}" for i in range(50)]) is None
    assert shared_note(texts, [*(f"other {i}" for i in range(99)), "order 1"]) is None
    said = shared_note(texts, ["  ORDER 3 ", "order 4", "other"])
    assert said is not None and said.startswith(
        "2 of 3 validation rows have the text of a training"
    )


def test_texts_without_a_letter_are_told_apart_by_themselves() -> None:
    assert text_notes([str(i) for i in range(150)], {}) == []
