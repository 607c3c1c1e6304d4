"""Rows that are conversations: every way to write them, labels of turns, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pillion.core import Turn
from pillion.data import (
    LabelSpace,
    Origin,
    Rows,
    TableLayout,
    read_rows,
    read_texts,
    split_validation,
)
from pillion.errors import ConfigError, DataError

TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi, you"}]
TURNS = (Turn("user", "hello"), Turn("assistant", "hi, you"))
SHARED = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi, you"}]
ASK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
TURN_LABELS = TableLayout(turn_labels=True)


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, header: Sequence[str], *rows: Sequence[Any]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Path]:
    """The same conversation in every form that a file may have."""
    text = json.dumps(TALK)
    return {
        "lists": jsonl(tmp_path / "a.jsonl", {"messages": TALK, "label": "a"}),
        "JSON in JSON": jsonl(tmp_path / "b.jsonl", {"messages": text, "label": "a"}),
        "structs": parquet(tmp_path / "c.parquet", messages=[TALK], label=["a"]),
        "JSON in Parquet": parquet(tmp_path / "d.parquet", messages=[text], label=["a"]),
        "JSON in CSV": table(tmp_path / "e.csv", ("messages", "label"), (text, "a")),
        "ShareGPT": jsonl(tmp_path / "f.jsonl", {"conversations": SHARED, "label": "a"}),
        "ShareGPT structs": parquet(tmp_path / "g.parquet", conversations=[SHARED], label=["a"]),
        "prompt and response": table(
            tmp_path / "h.csv", ("prompt", "response", "label"), ("hello", "hi, you", "a")
        ),
    }


def test_every_form_of_a_conversation_gives_the_same_turns_and_says_what_was_taken(
    written: dict[str, Path],
) -> None:
    for form, path in written.items():
        rows = read_rows(path)
        assert (rows.texts, rows.labels) == ((TURNS,), ("a",)), form
        (note,) = rows.notes
        assert path.name in note
        assert read_texts(path).texts == (TURNS,), form


def test_a_column_of_texts_goes_before_one_of_conversations(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", {"text": "x", "messages": TALK, "label": "a"})
    assert read_rows(path).texts == ("x",) and not read_rows(path).notes
    asked = read_rows(path, layout=TableLayout(messages_column="messages"))
    assert asked.texts == (TURNS,) and not asked.notes


def test_a_prompt_may_be_messages_or_messages_in_json(tmp_path: Path) -> None:
    wanted = (Turn("system", "be brief"), Turn("user", "hello"), Turn("assistant", "no"))
    names = TableLayout(prompt_column="asked", response_column="said")
    rows = [{"asked": prompt, "said": "no", "label": "a"} for prompt in (ASK, json.dumps(ASK))]
    found = read_rows(jsonl(tmp_path / "r.jsonl", *rows), layout=names)
    assert found.texts == (wanted, wanted)


def test_a_prompt_that_begins_with_a_bracket_stays_a_text(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", {"prompt": "[1, 2]", "response": "[x", "label": "a"})
    assert read_rows(path).texts == ((Turn("user", "[1, 2]"), Turn("assistant", "[x")),)


def test_rows_of_python_may_be_texts_and_conversations_mixed() -> None:
    rows = Rows.of(["x", TALK, TURNS, SHARED], ["a", "b", "a", "b"], "memory")
    assert rows.texts == ("x", TURNS, TURNS, TURNS)


def test_the_digest_of_texts_in_memory_is_that_of_earlier_versions() -> None:
    content = json.dumps([["x", "ü"], ["a", "b"]], ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()
    assert Rows.of(["x", "ü"], ["a", "b"], "memory").sha256 == digest


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no turns": ({"messages": []}, r"Row 2: the conversation has no turns"),
    "null": ({"messages": None}, r"an empty or null conversation in 1 of 2 rows, first in row 2"),
    "no list": ({"messages": "hello"}, "messages that are neither a list nor one in JSON"),
    "a number": ({"messages": 7}, "Row 2: a conversation is a list of messages"),
    "an unknown role": (
        {"messages": [{"role": "boss", "content": "x"}]},
        r"Row 2: turn 1 has the unknown role 'boss'; known: system, user, assistant, tool",
    ),
    "no role": ({"messages": [{"content": "x"}]}, "Row 2: turn 1 has no role"),
    "an empty turn": (
        {"messages": [*TALK, {"role": "user", "content": " "}]},
        r"Row 2: turn 3 \(user\) is empty",
    ),
    "half a surrogate pair": (
        {"messages": [{"role": "user", "content": "\ud83d"}]},
        "a turn with half a surrogate pair",
    ),
}


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_conversation_is_refused_in_one_sentence(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = jsonl(tmp_path / "r.jsonl", {"messages": TALK, "label": "a"}, row | {"label": "b"})
    with pytest.raises(DataError, match=message) as raised:
        read_rows(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)
    texts = read_texts(path)
    assert texts.texts == (TURNS, None) and [one.row for one in texts.failed] == [2]


def test_an_empty_response_is_refused_by_its_name(tmp_path: Path) -> None:
    path = table(tmp_path / "r.csv", ("prompt", "response", "label"), ("x", " ", "a"))
    with pytest.raises(DataError, match="an empty or null response in 1 of 1 rows"):
        read_rows(path)


def test_columns_of_two_forms_are_refused() -> None:
    with pytest.raises(ConfigError, match="messages, or prompt and response"):
        TableLayout(messages_column="m", prompt_column="p")


def test_a_text_column_beside_one_of_messages_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", {"text": "x", "m": TALK, "label": "a"})
    with pytest.raises(ConfigError, match=r"texts \('text'\) or conversations \('m'\)"):
        read_rows(path, "text", layout=TableLayout(messages_column="m"))


LONG = [*TALK, {"role": "user", "content": "bye"}, {"role": "assistant", "content": "so long"}]


def test_each_turn_that_was_judged_is_an_example_of_the_turns_up_to_it(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "r.jsonl",
        {"messages": LONG, "label": [None, "good", None, "bad"]},
        {"messages": TALK, "label": ["good", None]},
    )
    rows = read_rows(path)
    assert [len(text) for text in rows.texts] == [2, 4, 1]
    assert rows.labels == ("good", "bad", "good")
    assert rows.origins == (Origin(1, 2), Origin(1, 4), Origin(2, 1))
    assert rows.groups == (0, 0, 1)
    assert any("one for each turn" in note for note in rows.notes)


def test_a_column_may_say_by_its_name_that_it_labels_turns(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", {"messages": TALK, "turn_labels": ["a", "b"]})
    rows = read_rows(path)
    assert rows.labels == ("a", "b") and "'turn_labels'" in rows.notes[1]


def test_labels_of_turns_may_be_json_in_a_csv_file(tmp_path: Path) -> None:
    row = (json.dumps(TALK), '[null, "bad"]')
    rows = read_rows(table(tmp_path / "r.csv", ("messages", "label"), row))
    assert rows.labels == ("bad",) and rows.origins == (Origin(1, 2),)


def test_turns_may_have_several_labels_each(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", {"messages": TALK, "label": [["a", "b"], []]})
    assert read_rows(path).labels == (("a", "b"), ())


def test_a_list_that_may_name_turns_or_labels_is_not_guessed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", {"messages": TALK, "label": ["a", "b"]})
    with pytest.raises(DataError, match=r"as long as the rows have turns.*--turn-labels or --row"):
        read_rows(path)
    assert read_rows(path, layout=TURN_LABELS).labels == ("a", "b")
    assert read_rows(path, layout=TableLayout(turn_labels=False)).labels == (("a", "b"),)


def test_lists_of_another_length_than_the_turns_name_labels_of_the_row(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "r.jsonl",
        {"messages": TALK, "label": ["a", "b", "c"]},
        {"messages": TALK, "label": ["a"]},
    )
    assert read_rows(path).labels == (("a", "b", "c"), ("a",))


def test_more_labels_than_turns_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", {"messages": TALK, "label": ["a", None, "b"]})
    with pytest.raises(DataError, match="3 labels for 2 turns in row 1"):
        read_rows(path)
    with pytest.raises(DataError, match="3 labels for 2 turns in 1 of 1 rows, first in row 1"):
        read_rows(path, layout=TURN_LABELS)


def test_labels_of_turns_for_a_text_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", {"text": "x", "label": ["a"]})
    with pytest.raises(DataError, match="labels of turns for a text without turns"):
        read_rows(path, layout=TURN_LABELS)


def test_a_row_without_a_judged_turn_is_refused_or_left_out(tmp_path: Path) -> None:
    rows = [{"messages": TALK, "label": one} for one in ([None, None], ["a", None])]
    path = jsonl(tmp_path / "r.jsonl", *rows)
    with pytest.raises(DataError, match="no label for any of its turns in 1 of 2 rows"):
        read_rows(path)
    left = read_rows(path, layout=TableLayout(skip_bad_rows=True))
    assert left.origins == (Origin(2, 1),) and [one.row for one in left.failed] == [1]


def test_no_two_examples_of_a_conversation_are_parted_by_the_split(tmp_path: Path) -> None:
    rows = [{"messages": LONG, "label": ["a", "b", None, "ab"[n % 2]]} for n in range(30)]
    read = read_rows(jsonl(tmp_path / "r.jsonl", *rows))
    assert read.labels is not None and read.groups is not None
    ids = LabelSpace.of(read.labels).encode(read.labels)
    train, held = split_validation(ids, 0.2, groups=read.groups)
    groups = np.array(read.groups)
    assert len(held) == 18 and not set(groups[train]) & set(groups[held])


def test_answers_to_the_same_prompt_are_not_parted_either() -> None:
    talks = [[TALK[0] | {"content": f"ask {n // 3}"}, TALK[1]] for n in range(9)]
    rows = Rows.of(talks, list("ab" * 4 + "a"), "memory")
    assert rows.groups == (0, 0, 0, 1, 1, 1, 2, 2, 2)


def test_rows_without_a_common_prompt_have_no_groups() -> None:
    assert Rows.of(["x", "x"], ["a", "b"], "memory").groups is None
    assert Rows.of([TALK[:1], TALK[:1]], ["a", "b"], "memory").groups is None
