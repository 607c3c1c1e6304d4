"""The text of a row, from what its cells hold: a string, messages, or a prompt and its response.

Promises a text with something in it or a conversation whose turns have, or what is wrong with the
cell. Does not know tables nor labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pillion.core import Conversation, Text, Turn, as_conversation
from pillion.data.layout import Form
from pillion.errors import DataError


@dataclass(frozen=True)
class UnusableCell:
    """Why a row cannot be used.

    Attributes:
        what: is wrong, such as `an empty or null text`; a whole sentence where `remedy` is empty.
        remedy: what to do, with `{}` for the row or rows.
        value: what is there, for errors; reasons that are kept leave it out.
    """

    what: str
    remedy: str = ""
    value: Any = None

    @property
    def reason(self) -> str:
        """What is wrong and what to do, without a word of the row."""
        return f"{self.what}; {self.remedy.format('it')}" if self.remedy else self.what


def text_of(form: Form, cells: Sequence[Any]) -> Text | UnusableCell:
    """What a row's cells make.

    Args:
        form: of the row.
        cells: one, or two for prompt and response.
    """
    return _MAKERS[form](*cells)


def _from_text(cell: Any) -> Text | UnusableCell:
    if _is_messages(cell):
        return _conversation(cell)
    for is_bad, what, remedy in _BAD_TEXTS:
        if is_bad(cell):
            return UnusableCell(what, remedy, cell)
    return cast("str", cell)


def _from_messages(cell: Any) -> Text | UnusableCell:
    if is_blank(cell):
        return UnusableCell("an empty or null conversation", "fill or remove {}", cell)
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return UnusableCell(
                "messages that are neither a list nor one in JSON",
                "write {} as a list of role and content",
                cell,
            )
    return _conversation(cell)


def _from_pair(prompt: Any, response: Any) -> Text | UnusableCell:
    """The turns of the prompt, and the response as the assistant's."""
    for value, name in ((prompt, "prompt"), (response, "response")):
        if is_blank(value):
            return UnusableCell(f"an empty or null {name}", "fill or remove {}", value)
    asked = _spelled_messages(prompt)
    before = _conversation(asked if asked is not None else [{"role": "user", "content": prompt}])
    answer = _from_text(response)
    if isinstance(before, UnusableCell) or isinstance(answer, UnusableCell):
        return before if isinstance(before, UnusableCell) else cast("UnusableCell", answer)
    if isinstance(answer, str):
        return _checked((*before, Turn("assistant", answer)))
    if answer[-1].role != "assistant":
        return UnusableCell("the response does not end with the assistant's turn; end it so.")
    return _checked((*before, *answer))


def _spelled_messages(prompt: Any) -> Any:
    """The messages of a prompt that is a list of them, or one in JSON; None for a plain text."""
    if not isinstance(prompt, str):
        return prompt
    if not prompt.lstrip().startswith("["):
        return None
    try:
        found = json.loads(prompt)
    except (ValueError, RecursionError):
        return None
    return found if _is_messages(found) else None


def _conversation(cell: Any) -> Conversation | UnusableCell:
    try:
        return _checked(as_conversation(cell))
    except DataError as error:
        return UnusableCell(str(error))


def _checked(turns: Conversation) -> Conversation | UnusableCell:
    if any(is_broken(turn.content) or not _is_writable(turn.more) for turn in turns):
        return UnusableCell("a turn with half a surrogate pair", "repair {}")
    return turns


def _is_messages(cell: Any) -> bool:
    """Whether a cell is turns, or a list of mappings each with a role."""
    if isinstance(cell, str | Mapping) or not isinstance(cell, Sequence) or not cell:
        return False
    return all(isinstance(one, Turn | Mapping) for one in cast("Sequence[Any]", cell))


def is_blank(value: Any) -> bool:
    """Whether a cell is null, or a string of white space alone."""
    return value is None or (isinstance(value, str) and not value.strip())


def _is_no_string(value: Any) -> bool:
    return not isinstance(value, str)


def _is_writable(more: Mapping[str, Any]) -> bool:
    """Whether a chat template can write what a turn holds beside its words, such as calls."""
    try:
        json.dumps(dict(more), ensure_ascii=False, skipkeys=True, default=str).encode()
    except (ValueError, RecursionError):
        return False
    return True


def is_broken(text: str) -> bool:
    """Whether half a surrogate pair stands in a string, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


_BAD_TEXTS: tuple[tuple[Callable[[Any], bool], str, str], ...] = (
    (is_blank, "an empty or null text", "fill or remove {}"),
    (_is_no_string, "a text that is not a string", "write {} as a string"),
    (is_broken, "a text with half a surrogate pair", "repair {}"),
)
"""What a text may not be, in words, and what to do about it."""

_MAKERS: dict[Form, Callable[..., Text | UnusableCell]] = {
    "text": _from_text,
    "messages": _from_messages,
    "prompt": _from_pair,
}
