"""Turns that stand before rows: the shipped ones, a user's file, and how rows come behind them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pillion.core import Turn, as_conversation
from pillion.data import contexts_of, in_context, sample_contexts, shipped_contexts
from pillion.errors import DataError

SYSTEM, ASKED, SAID = Turn("system", "be brief"), Turn("user", "hi"), Turn("assistant", "hello")


def written(path: Path, *contexts: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in contexts))
    return str(path)


def test_the_shipped_contexts_are_system_prompts_exchanges_and_both() -> None:
    contexts = shipped_contexts()
    kinds = Counter((one[0].role == "system", len(one) > 1) for one in contexts.each)
    assert kinds[True, False] >= 20 and kinds[False, True] >= 32 and kinds[True, True] >= 32
    assert len(set(map(repr, contexts.each))) == len(contexts)
    assert sum(any(turn.role == "tool" for turn in one) for one in contexts.each) >= 4
    words = [len(one[0].content.split()) for one in contexts.each if one[0].role == "system"]
    assert min(words) < 10 and max(words) > 450


def test_every_shipped_context_can_be_followed_by_a_user(tmp_path: Path) -> None:
    for one in shipped_contexts().each:
        assert one[-1].role in ("system", "assistant")
        plain = [{"role": turn.role, "content": turn.content} for turn in one]
        assert as_conversation(plain) == one
        # Templates that need alternation see the user and the assistant take turns.
        spoken = [turn.role for turn in one if turn.role in ("user", "assistant")]
        no_tools = all(turn.role != "tool" for turn in one)
        assert not no_tools or spoken == ["user", "assistant"] * (len(spoken) // 2)


def test_a_file_of_contexts_is_taken_as_it_is(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = written(tmp_path / "own.jsonl", [{"role": "system", "content": "be brief"}], turns)
    found = contexts_of(path)
    assert found is not None
    assert (found.name, found.each) == (path, ((SYSTEM,), (ASKED, SAID)))
    assert len(found.sha256) == 64 and contexts_of("none") is None


def test_a_context_that_a_user_cannot_follow_is_refused_by_row(tmp_path: Path) -> None:
    path = written(
        tmp_path / "own.jsonl",
        [{"role": "system", "content": "be brief"}],
        [{"role": "user", "content": "hi"}],
    )
    with pytest.raises(DataError, match=r"own\.jsonl: the context in row 2 ends with .* the user"):
        contexts_of(path)


def test_a_text_comes_behind_its_context_as_a_users_turn() -> None:
    assert in_context("good day", (SYSTEM, ASKED, SAID)) == (
        SYSTEM,
        ASKED,
        SAID,
        Turn("user", "good day"),
    )
    assert in_context("good day", ()) == "good day"


def test_a_conversation_keeps_its_own_system_turn() -> None:
    own = (Turn("system", "be kind"), Turn("user", "good day"), Turn("assistant", "you too"))
    assert in_context(own, (SYSTEM, ASKED, SAID)) == (own[0], ASKED, SAID, *own[1:])
    assert in_context(own, (SYSTEM,)) == own


def test_a_row_that_does_not_go_on_with_a_user_takes_no_earlier_turns() -> None:
    row = (Turn("tool", "17 degrees"), Turn("assistant", "It is mild."))
    assert in_context(row, (SYSTEM, ASKED, SAID)) == (SYSTEM, *row)
    assert in_context(row, (ASKED, SAID)) == row


def test_the_same_seed_gives_the_same_contexts_and_another_one_others() -> None:
    contexts = shipped_contexts()
    drawn = sample_contexts(60, 0, contexts)
    assert drawn == sample_contexts(60, 0, contexts) != sample_contexts(60, 1, contexts)
    assert drawn.count(()) == 20
    assert () not in sample_contexts(60, 0, contexts, alone=0.0)


def test_few_rows_meet_as_many_contexts_as_there_are_rows() -> None:
    drawn = sample_contexts(50, 3, shipped_contexts(), alone=0.0)
    assert len(set(map(repr, drawn))) == 50


def test_the_context_of_a_row_says_nothing_about_where_the_row_stands() -> None:
    """Rows are often ordered by label: contexts in the order of rows would tell it."""
    drawn = sample_contexts(3000, 0, shipped_contexts())
    halves = [Counter(map(repr, part)) for part in (drawn[:1500], drawn[1500:])]
    assert all(abs(halves[0][one] - halves[1][one]) < 25 for one in halves[0] if one != "()")
    assert abs(halves[0]["()"] - 500) < 60


def test_no_rows_need_no_contexts() -> None:
    assert sample_contexts(0, 0, shipped_contexts()) == []
