"""Messages of clients as turns of a conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pillion.backends import Coder
from pillion.core import Conversation, Template, Text, Tokens, Turn
from pillion.errors import DataError
from pillion.runtime import Engine
from pillion.runtime.encoding import tokens_of
from pillion.serve.refusal import Refused
from pillion.serve.requests import Message, MessageCall
from pillion.serve.tool_calls import calls_of, takes_calls


def turns_of(messages: Sequence[Message], codec: Coder) -> Conversation:
    """The turns of a conversation, by the names of roles that chat templates know.

    Raises:
        Refused: 400, calls that the chat template would leave out.
    """
    if any(message.tool_calls for message in messages):
        if messages[-1].tool_calls:
            raise _no_calls("The last message calls tools; add what they have answered.")
        if not takes_calls(codec.chat_template):
            raise _no_calls(
                "The model's chat template writes no calls of tools; tell them in words, or leave "
                "tool_calls out."
            )
    return tuple(_turn(message) for message in messages)


def num_chars(text: Text) -> int:
    """Characters of a text, or of all turns."""
    if isinstance(text, str):
        return len(text)
    return sum(len(turn.content) for turn in text) + sum(map(len, calls_of(text)))


def transcript(turns: Conversation) -> str:
    """A conversation as a text, for judges and logs."""
    return "\n".join(
        f"{turn.role}: {' '.join(filter(None, [turn.content, *calls_of((turn,))]))}"
        for turn in turns
    )


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
    role = "system" if message.role == "developer" else message.role
    more: dict[str, Any] = {}
    if message.tool_call_id is not None:
        more["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        more["name"] = message.name
    if message.tool_calls:
        more["tool_calls"] = [_call(one) for one in message.tool_calls]
    return Turn(role, message.content, more)


def _call(call: MessageCall) -> dict[str, Any]:
    """A call as chat templates take it: its arguments are no text."""
    function = {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
    return {"id": call.id, "type": call.type, "function": function}


def _no_calls(message: str) -> Refused:
    return Refused(400, message, "invalid_value", "messages")
