"""Rows behind contexts, as far as a model takes them: its chat template, and its window.

Promises that a row which the model takes alone is taken in context too. Knows no probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pillion.backends import Backend
from pillion.core import Conversation, Template, Text, Turn
from pillion.data import Contexts, in_context
from pillion.errors import ConfigError, DataError

_TEMPLATE_TOKENS = 64
"""More than a template puts around a turn."""


def taken_contexts(
    backend: Backend, contexts: Contexts, template: Template
) -> tuple[Contexts, str | None]:
    """The contexts that a model's chat template takes, and a sentence of those it does not.

    Args:
        backend: the model.
        contexts: to put before a user's turn.
        template: how texts are wrapped.

    Raises:
        ConfigError: none is taken, or texts are raw and so have no turns.
    """
    if template == "raw":
        raise ConfigError(
            "Contexts are turns of a conversation, and raw texts have none; use --template chat, "
            "or --contexts none."
        )
    refused = {n: why for n, one in enumerate(contexts.each) if (why := _refusal(backend, one))}
    if not refused:
        return contexts, None
    first = next(iter(refused.values()))
    if len(refused) == len(contexts):
        raise ConfigError(
            f"The model takes none of the {len(contexts)} contexts of {contexts.name} ({first}); "
            "give other ones, or --contexts none."
        )
    left = tuple(one for n, one in enumerate(contexts.each) if n not in refused)
    say = (
        f"Of {len(contexts)} contexts of {contexts.name} the model does not take {len(refused)}, "
        f"which are left out ({first})."
    )
    return replace(contexts, each=left), say


def _refusal(backend: Backend, context: Conversation) -> str | None:
    try:
        tokens = backend.encode_chat((*context, Turn("user", "Hello")))
    except (ConfigError, DataError) as error:
        return str(error).rstrip(".")
    room = backend.identity.context_tokens
    return None if len(tokens) < room else f"{len(tokens):,} tokens, and the model reads {room:,}"


def rows_in_context(
    backend: Backend, texts: Sequence[Text], contexts: Sequence[Conversation]
) -> list[Text]:
    """Each text behind its context; alone where both together are too long for the model.

    Args:
        backend: the model.
        texts: of the rows.
        contexts: one a text, none (no turns) for a text that stays alone.
    """
    return [
        found if _fits(backend, found) else text
        for text, context in zip(texts, contexts, strict=True)
        for found in [in_context(text, context)]
    ]


def _fits(backend: Backend, text: Text) -> bool:
    if isinstance(text, str):
        return True
    window = backend.identity.context_tokens
    # No token stands for less than a byte, so most rows need not be counted.
    most = sum(len(turn.content.encode()) + _TEMPLATE_TOKENS for turn in text)
    plain = not any(turn.more for turn in text)
    return (plain and most < window) or len(backend.encode_chat(text)) <= window
