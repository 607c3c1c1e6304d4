"""A conversation as the text that a chat template makes of it, and where each turn stands in it.

A template is a program: it may trim contents, merge turns, leave some out. So each content goes
through it between two marks (characters that occur nowhere else), and where the marks come out is
where the content stands. The same conversation without marks must give the same text. No pattern of
the text itself is looked for: nothing that a user writes can move a border. Knows no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pillion.core import Conversation, Role, Turn
from pillion.core.conversation import Kind, TurnSpan
from pillion.errors import ConfigError, DataError

Render = Callable[[list[dict[str, Any]]], str]
"""The chat template: messages in, the text up to where the answer begins out."""

REASONING = ("<think>", "</think>")
"""Around the reasoning in the content of an assistant's turn."""

_PRIVATE = range(0x100000, 0x10FFFE)
"""Unicode's last plane for private use: characters without meaning, case or spelling."""

_NAMES = ("id", "type", "tool_call_id")
"""What a message holds beside its words that templates compare, and that no user writes."""


class RenderedSpan(TurnSpan):
    """A run of characters of one turn, in the rendered text."""


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation.

    Attributes:
        text: what the model is to read.
        spans: of contents, ascending; a turn that the template left out has none.
    """

    text: str
    spans: tuple[RenderedSpan, ...]


def render(turns: Conversation, template: Render) -> Rendered:
    """The text that a template makes of a conversation, with the places of all contents.

    Args:
        turns: one or more.
        template: makes the text.

    Raises:
        DataError: the template changes the words of a turn, so that it is unknown where they
            are.
        ConfigError: the template refuses the turns (raised by `template`).
    """
    text = template([_message(turn) for turn in turns])
    marks = _Marks(text + "".join(strings([turn.more, turn.content] for turn in turns)))
    marked = [_marked(turn, n, marks) for n, turn in enumerate(turns)]
    found = marks.read(template([_message(turn) for turn in marked]))
    if found is None or found.text != text:
        turn = _changed(turns, marked, template, marks)
        raise DataError(
            f"the chat template changes the words of turn {turn + 1} ({turns[turn].role}), so that "
            "whose words are where cannot be told; write that turn in other words, or "
            "give plain texts (template raw)."
        )
    return found


class _Marks:
    """Pairs of characters that a text does not hold, and what they stand around."""

    def __init__(self, text: str) -> None:
        self._used = set(text)
        self._free = (chr(code) for code in _PRIVATE)
        self._about: dict[str, tuple[str, Role, int, Kind]] = {}

    def around(self, text: str, role: Role, turn: int, kind: Kind = "content") -> str:
        """A text between marks; the space around its words stays outside."""
        words = text.strip()
        if not words:
            return text
        begin = text.index(words)
        first, last = self._new(), self._new()
        self._about[first] = (last, role, turn, kind)
        return f"{text[:begin]}{first}{words}{last}{text[begin + len(words) :]}"

    def _new(self) -> str:
        for mark in self._free:
            if mark not in self._used:
                return mark
        raise DataError(
            "the conversation uses every character of Unicode's private planes; take them out."
        )

    def read(self, text: str) -> Rendered | None:
        """The text without its marks, and what stood between them; None if pairs are broken."""
        if not self._about:
            return Rendered(text, ())
        plain: list[str] = []
        length, open_at = 0, dict[str, int]()
        wanted = {about[0]: first for first, about in self._about.items()}
        spans: list[RenderedSpan] = []
        for piece in re.split(f"([{''.join([*self._about, *wanted])}])", text):
            if piece in self._about:
                open_at[piece] = length
            elif (first := wanted.get(piece)) is not None:
                if first not in open_at:
                    return None
                spans.append(RenderedSpan(open_at.pop(first), length, *self._about[first][1:]))
            else:
                plain.append(piece)
                length += len(piece)
        if open_at:
            return None
        return Rendered(
            "".join(plain), tuple(sorted(spans, key=lambda span: (span.begin, span.end)))
        )


def _message(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": turn.content, **turn.more}


def _marked(turn: Turn, n: int, marks: _Marks) -> Turn:
    """A turn with marks around its words, its reasoning, and every string for tools."""
    if turn.role == "assistant":
        content = _marked_answer(turn.content, n, marks)
    else:
        content = marks.around(turn.content, turn.role, n)
    more = {key: _deep(value, key, turn.role, n, marks) for key, value in turn.more.items()}
    return replace(turn, content=content, more=more)


def _marked_answer(content: str, n: int, marks: _Marks) -> str:
    """Templates cut reasoning off an answer: each has marks of its own."""
    first, last = REASONING
    head, cut, answer = content.rpartition(last)
    if not cut:
        return marks.around(content, "assistant", n)
    before, opened, reasoning = head.partition(first)
    reasoning = marks.around(reasoning if opened else before, "assistant", n, "reasoning")
    start = before + opened if opened else ""
    return f"{start}{reasoning}{last}{marks.around(answer, 'assistant', n)}"


def _deep(value: Any, key: str, role: Role, n: int, marks: _Marks, free: bool = False) -> Any:
    """Marks around every string of a message's other parts: users may have a say in them too."""
    if isinstance(value, str):
        if key in _NAMES and not free:
            return value
        kind: Kind = "reasoning" if key.startswith(("reasoning", "thinking")) else "call"
        return marks.around(value, role, n, kind)
    if isinstance(value, Mapping):
        inner = cast("Mapping[str, Any]", value)
        free = free or key == "arguments"  # there a client chooses the names too, however deep
        return {
            (marks.around(k, role, n, "call") if free else k): _deep(v, k, role, n, marks, free)
            for k, v in inner.items()
        }
    if isinstance(value, list):
        return [_deep(item, key, role, n, marks, free) for item in cast("list[Any]", value)]
    return value


def strings(value: Any) -> list[str]:
    """Every string in a message or tool, names of its mappings included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        found = cast("Mapping[str, Any]", value)
        return [*found, *strings(found.values())]
    if isinstance(value, int | float | None):
        return []
    return [text for item in value for text in strings(item)]


def _changed(turns: Conversation, marked: Sequence[Turn], template: Render, marks: _Marks) -> int:
    """The first turn whose marks alone change the text."""
    plain = template([_message(turn) for turn in turns])
    for n, turn in enumerate(marked):
        mixed = [*turns[:n], turn, *turns[n + 1 :]]
        found = marks.read(template([_message(one) for one in mixed]))
        if found is None or found.text != plain:
            return n
    return 0


def refused(name: str, error: Exception) -> ConfigError:
    """The error for turns that a template does not take."""
    return ConfigError(
        f"The chat template of {name!r} refuses this conversation ({error}); give turns that it "
        "takes."
    )
