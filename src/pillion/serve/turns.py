"""Messages of clients as turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pillion.core import Conversation, Role, Text, Turn
from pillion.serve.requests import Message


def turns_of(messages: Sequence[Message]) -> Conversation:
    """The turns of a conversation, by the names of roles that chat templates know."""
    return tuple(_turn(message) for message in messages)


def num_chars(text: Text) -> int:
    """Characters of a text, or of all turns."""
    return len(text) if isinstance(text, str) else sum(len(turn.content) for turn in text)


def _turn(message: Message) -> Turn:
    role = "system" if message.role == "developer" else cast("Role", message.role)
    more: dict[str, Any] = {}
    if message.tool_call_id is not None:
        more["tool_call_id"] = message.tool_call_id
    return Turn(role, message.content, more)
