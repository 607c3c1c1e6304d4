"""Turns of the tokens in conversations that an engine's own server renders.

Such servers write what a turn says into the chat template as it is: a control token that is
spelled there would end the turn. So such a request is refused. Of the others the turns are told, if
what the server has made of them is what our own encoding makes. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pillion.backends.codec import Codec
from pillion.backends.template import REASONING
from pillion.core import Tokens, as_conversation
from pillion.errors import ConfigError, DataError

Json = Mapping[str, Any]


class Rendering:
    """Knows what a server may render, and what it should have made of it.

    Args:
        codec: the model's tokenizer, for this alone.
        scoped: whether a probe wants to know turns.
    """

    def __init__(self, codec: Codec, scoped: bool) -> None:
        self._codec, self.scoped = codec, scoped

    def check_all(self, messages: Sequence[Any], **others: Any) -> None:
        """Returns if nothing of a request spells a control token.

        Args:
            messages: of the conversation.
            others: what else may be rendered, such as `tools` and `documents`; None is left out.

        Raises:
            ValueError: it spells one; servers answer with status 400.
        """
        for number, message in enumerate(messages, 1):
            self.check(f"Message {number}", message)
        for name, one in others.items():
            self.check(f"One of the {name}", one)

    def check(self, name: str, message: Any) -> None:
        """Returns if a message, or what else is rendered, spells no control token.

        Args:
            name: how it is called, for the error.
            message: strings, mappings, lists of them.

        Raises:
            ValueError: it spells one; servers answer with status 400.
        """
        role = message.get("role") if isinstance(message, Mapping) else None
        for text in _texts(message):
            if role == "assistant":  # it may hold reasoning; templates cut that off
                text = text.replace(REASONING[0], " ").replace(REASONING[1], " ")
            if (token := self._codec.spelled(text)) is not None:
                raise ValueError(
                    f"{name} spells the control token {token!r}, which would be taken for one; "
                    "write it in another way, or take it out."
                )

    def tokens(self, conversation: Sequence[Json], ids: Sequence[int]) -> Tokens:
        """What was rendered, with its turns; without, where ours would have other tokens."""
        try:
            known = self._codec.encode_chat(as_conversation(conversation))
        except (ConfigError, DataError):
            return Tokens(ids)
        return known if known == tuple(ids) else Tokens(ids)


def _texts(value: Any) -> Iterator[str]:
    """Every string in a message, and what its parts are together."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        yield "".join(p["text"] for p in value if isinstance(p, Mapping) and _is_text(p))
        for inner in value:
            yield from _texts(inner)


def _is_text(part: Json) -> bool:
    return isinstance(part.get("text"), str)
