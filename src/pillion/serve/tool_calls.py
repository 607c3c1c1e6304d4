"""Calls of tools in the text of an answer: how families of models write them, and their reading.

A table of forms, chosen by what the chat template itself says. Text in, text and calls out; knows
no tokens and no HTTP.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pillion.core.conversation import Conversation

ID_CHARS = 9
"""Of a call's id, letters and digits: templates of Mistral take no others."""

_ALPHABET = string.ascii_letters + string.digits
_BETWEEN = re.compile(r"[\s;,]*")


@dataclass(frozen=True)
class ToolCall:
    """What an answer calls.

    Attributes:
        number: of the call in its answer, from 0.
        id: by which a client gives its result.
        name: of the tool.
        arguments: a JSON object, as text.
    """

    number: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class CallFormat:
    """How a family of models writes calls.

    Attributes:
        name: of the family.
        sign: a piece of the chat templates of its models.
        never: pieces that tell of another form with the same sign.
        opening: the mark before calls.
        closing: the mark behind each; empty: they end with the answer.
        bare: whether an answer that is an object, without a mark, is a call.
        arguments: what an object calls its arguments.
    """

    name: str
    sign: str
    never: tuple[str, ...]
    opening: str
    closing: str = ""
    bare: bool = False
    arguments: str = "arguments"

    @property
    def marks(self) -> tuple[str, ...]:
        """Those that may be tokens of their own."""
        return (self.opening, self.closing) if self.closing else (self.opening,)


FORMS = (
    CallFormat("Hermes", "<tool_call>", ("<function=", "<arg_key>"), "<tool_call>", "</tool_call>"),
    CallFormat("Mistral", "[TOOL_CALLS]", ("[ARGS]", "[CALL_ID]"), "[TOOL_CALLS]"),
    CallFormat(
        "Llama 3",
        '{"name": function name, "parameters"',
        (),
        "<|python_tag|>",
        bare=True,
        arguments="parameters",
    ),
)
"""Of the families whose form is known; the first whose sign a template bears is taken."""


def form_of(template: str) -> CallFormat | None:
    """The form in which a model of this chat template writes calls; None if it is not known.

    Also where the template does not take tools: then the model was told of none.
    """
    if not re.search(r"\btools\b", template):
        return None
    for form in FORMS:
        if form.sign in template and not any(piece in template for piece in form.never):
            return form
    return None


def takes_calls(template: str) -> bool:
    """Whether a chat template writes the calls of earlier answers."""
    return "tool_calls" in template


def calls_of(turns: Conversation) -> list[str]:
    """The calls in a conversation, each as text."""
    return [
        json.dumps(call["function"], ensure_ascii=False)
        for turn in turns
        for call in turn.more.get("tool_calls", ())
    ]


class CallReader:
    """Takes calls out of an answer that comes in pieces.

    What is no valid call of one of the tools stays text; space before a call goes with it, and at
    the end of the answer. A call is given once it is whole.

    Law: where the pieces are cut changes nothing.

    Args:
        form: how the model writes calls.
        names: of the tools.
        most: calls of an answer; what follows the last one is left out. None: any number.

    Attributes:
        num_calls: found so far.
    """

    def __init__(self, form: CallFormat, names: Collection[str], most: int | None = None) -> None:
        self.form, self.names, self.most = form, names, most
        self.num_calls = 0
        self._held = ""
        self._lead: str | None = None  # what stood before the call that is open
        self._tried = 0  # characters of it in which its end was looked for
        self._begun = self._called = False  # text has gone out; a call came last

    def add(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """The text and the calls that can go out now that this piece has come."""
        self._held += text
        return self._gathered(final=False)

    def end(self) -> tuple[str, tuple[ToolCall, ...]]:
        """What was held back, at the end of the answer."""
        return self._gathered(final=True)

    def cut(self) -> str:
        """What was held back, where the answer was cut off: without a call that is not whole."""
        text = "" if self._lead is not None or self._called else self._held
        self._held = ""
        return text

    def _gathered(self, final: bool) -> tuple[str, tuple[ToolCall, ...]]:
        texts: list[str] = []
        calls: list[ToolCall] = []
        while self._held or self._lead is not None:
            if self.num_calls == self.most:
                self._held, self._lead = "", None
                break
            before = len(self._held), self._lead
            found = self._call(final) if self._lead is not None else self._text(final)
            if isinstance(found, str):
                texts.append(found)
                self._begun |= bool(found)
            else:
                calls += found
            if (len(self._held), self._lead) == before:
                break
        return "".join(texts), tuple(calls)

    def _text(self, final: bool) -> str:
        """Text up to where a call opens, or may."""
        form, held = self.form, self._held
        if self._called and not held.strip():  # the space behind the last call
            self._held = "" if final else held
            return ""
        self._called = False
        if form.bare and not self._begun and not self.num_calls and held.lstrip().startswith("{"):
            words = held.lstrip()
            return self._open(held[: len(held) - len(words)], words, "")
        place = held.find(form.opening)
        if place >= 0:
            words = held[:place].rstrip()
            lead = held[len(words) : place + len(form.opening)]
            return self._open(lead, held[place + len(form.opening) :], words)
        keep = 0 if final else _beginning(held, form.opening)
        free = held[: len(held) - keep]
        if not final:
            free = free.rstrip()  # space before what may become a call
        self._held = held[len(free) :]
        return free

    def _open(self, lead: str, held: str, text: str) -> str:
        self._lead, self._held, self._tried = lead, held, 0
        return text

    def _call(self, final: bool) -> str | list[ToolCall]:
        """The calls that are open; where they turn out to be none, their mark as text."""
        place = self._held.find(self.form.closing, self._tried) if self.form.closing else -1
        if place < 0 and not final:
            return []
        self._tried = place + 1
        objects, end = _objects(self._held, self.form.closing)
        names = [self._named(one) for one in objects]
        if objects and None not in names and (final or end):
            self._held, self._lead, self._called = self._held[end or len(self._held) :], None, True
            return self._numbered([one for one in names if one is not None])
        if not final:
            return []  # the mark may stand inside of a string
        text, self._lead, self._begun = self._lead or "", None, True
        return text  # what is behind it is read afresh

    def _numbered(self, found: list[tuple[str, str]]) -> list[ToolCall]:
        room = None if self.most is None else self.most - self.num_calls
        calls = [ToolCall(self.num_calls + n, _id(), *one) for n, one in enumerate(found[:room])]
        self.num_calls += len(calls)
        return calls

    def _named(self, found: Any) -> tuple[str, str] | None:
        """Name and arguments of an object that is a call."""
        name = found.get("name") if isinstance(found, dict) else None
        if not isinstance(name, str) or name not in self.names:
            return None
        given = found.get("arguments", found.get("parameters"))
        if not isinstance(given, dict):
            return None
        try:
            return name, json.dumps(given, ensure_ascii=False, allow_nan=False)
        except ValueError:  # a number that JSON has not
            return None


def _objects(text: str, closing: str) -> tuple[list[Any], int]:
    """The JSON objects that a text begins with, one behind the other or in lists.

    Args:
        text: nothing else stands in it, up to the mark or the end.
        closing: the mark behind them; empty for none.

    Returns:
        None of them, if something else does; and the place behind the mark, 0 where it is missing.
    """
    decoder, found = json.JSONDecoder(), list[Any]()
    place = _skipped(text, 0)
    while place < len(text):
        if closing and text.startswith(closing, place):
            return found, place + len(closing)
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return [], 0
        found += value if isinstance(value, list) else [value]
        place = _skipped(text, place)
    return found, 0


def _skipped(text: str, place: int) -> int:
    found = _BETWEEN.match(text, place)
    return found.end() if found else place


def _beginning(text: str, mark: str) -> int:
    """Length of the longest end of a text that a mark begins with."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if mark.startswith(text[-n:])), 0)


def _id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(ID_CHARS))
