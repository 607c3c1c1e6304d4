"""Messages of clients as turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pillion.core import Conversation, Role, Template, Text, Tokens, Turn
from pillion.errors import DataError
from pillion.runtime import Engine
from pillion.runtime.encoding import tokens_of
from pillion.serve.requests import Message


def turns_of(messages: Sequence[Message]) -> Conversation:
    """The turns of a conversation, by the names of roles that chat templates know."""
    return tuple(_turn(message) for message in messages)


def num_chars(text: Text) -> int:
    """Characters of a text, or of all turns."""
    return len(text) if isinstance(text, str) else sum(len(turn.content) for turn in text)


def encode_text(engine: Engine, text: Text, template: Template) -> Tokens:
    """Tokens of a text or conversation.

    Raises:
        DataError: turns for a probe that reads none.
    """
    if not isinstance(text, str) and template == "raw":
        raise DataError(
            "A probe that was trained on raw texts reads no turns; give input (texts), or name "
            "other probes."
        )
    return tokens_of(engine.codec, text, template)


def _turn(message: Message) -> Turn:
    role = "system" if message.role == "developer" else cast("Role", message.role)
    more: dict[str, Any] = {}
    if message.tool_call_id is not None:
        more["tool_call_id"] = message.tool_call_id
    return Turn(role, message.content, more)
