"""Rows behind contexts: only those that a model takes, and never at the price of a row."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pillion.backends import Tool
from pillion.backends.fake import FakeBackend
from pillion.core import Conversation, Tokens, Turn
from pillion.data import Contexts, Rows
from pillion.errors import ConfigError
from pillion.runtime import place_rows, taken_contexts

SYSTEM = (Turn("system", "be brief"),)
EARLIER = (Turn("user", "hi"), Turn("assistant", "hello"))
LONG = (Turn("system", "x" * 400),)


def contexts(*each: Conversation) -> Contexts:
    return Contexts("own.jsonl", "0" * 64, each)


def rows(*texts: str) -> Rows:
    return Rows.of(texts, ["a", "b"] * (len(texts) // 2), "rows.jsonl")


class NoSystem(FakeBackend):
    """A model whose chat template knows users and assistants alone."""

    def encode_chat(self, turns: Conversation, tools: Sequence[Tool] = ()) -> Tokens:
        if any(turn.role == "system" for turn in turns):
            raise ConfigError("The chat template refuses this conversation (no system turns).")
        return super().encode_chat(turns, tools)


def test_contexts_that_the_template_refuses_are_left_out_and_counted() -> None:
    found, note = taken_contexts(NoSystem(), contexts(SYSTEM, EARLIER), "chat", "last-user")
    assert found.each == (EARLIER,)
    assert note is not None and "2 contexts of own.jsonl the model does not take 1" in note
    assert "no system turns" in note


def test_contexts_that_are_all_taken_need_no_word() -> None:
    own = contexts(SYSTEM, EARLIER)
    assert taken_contexts(FakeBackend(), own, "chat", "response") == (own, None)


def test_a_model_that_takes_no_context_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"none of the 1 contexts of own\.jsonl"):
        taken_contexts(NoSystem(), contexts(SYSTEM), "chat", "last-user")


def test_raw_texts_have_no_turns_to_put_before_them() -> None:
    with pytest.raises(ConfigError, match="raw texts have none; take the template"):
        taken_contexts(FakeBackend(), contexts(SYSTEM), "raw", "last-user")


@pytest.mark.parametrize("scope", ["all", "user", "assistant", "tool", "system"])
def test_a_scope_that_would_read_the_context_as_the_row_is_refused(scope: str) -> None:
    with pytest.raises(ConfigError, match=f"scope '{scope}' would read them as the row's own"):
        taken_contexts(FakeBackend(), contexts(SYSTEM), "chat", scope)  # type: ignore[arg-type]


def test_a_context_longer_than_the_window_is_not_taken() -> None:
    found, note = taken_contexts(
        FakeBackend(context_tokens=100), contexts(SYSTEM, LONG), "chat", "last-user"
    )
    assert found.each == (SYSTEM,) and note is not None and "the model reads 100" in note


def test_a_row_too_long_behind_its_context_stays_alone() -> None:
    """It fits the model by itself: a context must not be why it fails or is cut."""
    texts = ("short", "y" * 150)
    placed = place_rows(FakeBackend(), rows(*texts), contexts(LONG), 0, "every")
    assert placed.texts == ((*LONG, Turn("user", "short")), texts[1])


def test_each_row_alone_and_behind_a_context_keeps_its_label() -> None:
    placed = place_rows(FakeBackend(), rows("one", "two"), contexts(SYSTEM), 0, "both")
    behind = tuple((*SYSTEM, Turn("user", text)) for text in ("one", "two"))
    assert placed.texts == ("one", "two", *behind)
    assert placed.labels == ("a", "b", "a", "b")


def test_some_rows_stay_alone(num_rows: int = 30) -> None:
    texts: Sequence[str] = [f"text {n}" for n in range(num_rows)]
    placed = place_rows(FakeBackend(), rows(*texts), contexts(SYSTEM, EARLIER), 0, "some")
    alone = [text for text in placed.texts if isinstance(text, str)]
    assert len(alone) == num_rows // 3 and len(placed) == num_rows
    last = [text if isinstance(text, str) else text[-1].content for text in placed.texts]
    assert last == texts
