"""What a model is asked on the command line: a prompt, a file of turns, a system prompt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

from pillion.cli.output import check_text
from pillion.core import Conversation, Text, Turn, as_conversation
from pillion.errors import ConfigError, DataError


def asked(prompt: str | None, messages: str | None, system: str | None) -> Text:
    """The prompt alone, or a conversation that ends with it.

    Args:
        prompt: what the user says now; None where `messages` end with it.
        messages: a JSON file of earlier turns; `-` for standard input.
        system: a system prompt, in front of all.

    Raises:
        ConfigError: nothing is asked, or an empty system prompt, or two.
        DataError: a file that is no list of messages.
    """
    if prompt is not None:
        check_text(prompt, "The prompt")
    if prompt is None and messages is None:
        raise ConfigError("Got nothing to answer; give a prompt, or --messages FILE.")
    if messages is None and system is None:
        assert prompt is not None
        return prompt
    turns: Conversation = () if messages is None else _read(messages)
    if system is not None:
        if not system.strip():
            raise ConfigError("--system is empty; give it some words, or leave it out.")
        if turns and turns[0].role == "system":
            raise ConfigError("Both --system and --messages have a system prompt; give one.")
        turns = (*as_conversation([{"role": "system", "content": system}]), *turns)
    return turns if prompt is None else (*turns, Turn("user", prompt))


def _read(source: str) -> Conversation:
    name = "standard input" if source == "-" else source
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
        found: Any = json.loads(text)
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}); give a JSON file.") from error
    except ValueError as error:
        raise DataError(
            f"{name} is not JSON ({error}); write a list of messages with role and content."
        ) from error
    if isinstance(found, dict):
        found = cast("dict[str, Any]", found).get("messages", found)
    try:
        return as_conversation(found)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
