"""Rows behind contexts, as far as a model takes them: its chat template, and its window.

Promises that a row which the model takes alone is taken in context too. Knows no probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pillion.backends import Backend
from pillion.core import Conversation, Scope, Template, Text, Turn
from pillion.data import Contexts, Rows, in_context, sample_contexts
from pillion.errors import ConfigError, DataError

Placing = Literal["some", "every", "both"]
"""Of rows: a share of them in a context, each of them, or each alone and once more in a context."""

SCOPES: tuple[Scope, ...] = ("last-user", "response")
"""Scopes that read no word of a context."""

_TEMPLATE_TOKENS = 64
"""More than a template puts around a turn."""


def taken_contexts(
    backend: Backend, contexts: Contexts, template: Template, scope: Scope
) -> tuple[Contexts, str | None]:
    """The contexts that a model's chat template takes, and a sentence of those it does not.

    Args:
        backend: the model.
        contexts: to put before rows.
        template: how texts are wrapped.
        scope: which turns are read.

    Raises:
        ConfigError: none is taken, texts are raw and so have no turns, or a scope that would read a
            context as if it were the row.
    """
    if template == "raw":
        raise ConfigError(
            "Contexts are turns of a conversation, and raw texts have none; take the template "
            "chat, or no contexts."
        )
    if scope not in SCOPES:
        raise ConfigError(
            f"Contexts are other turns before the row, and the scope {scope!r} would read them as "
            f"the row's own; take the scope {' or '.join(SCOPES)}, or no contexts."
        )
    refused = {n: why for n, one in enumerate(contexts.each) if (why := _refusal(backend, one))}
    if not refused:
        return contexts, None
    first = next(iter(refused.values()))
    if len(refused) == len(contexts):
        raise ConfigError(
            f"The model takes none of the {len(contexts)} contexts of {contexts.name} ({first}); "
            "give other ones, or none."
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


def place_rows(
    backend: Backend, rows: Rows, contexts: Contexts, seed: int, placing: Placing
) -> Rows:
    """The rows behind contexts that are dealt to them by chance.

    Args:
        backend: the model.
        rows: with or without labels.
        contexts: that the model takes.
        seed: of the draw.
        placing: which rows; for `both` those alone come first, in their order.
    """
    shares = {"alone": 0.0} if placing != "some" else {}
    drawn = sample_contexts(len(rows), seed, contexts, **shares)
    placed = texts_in_context(backend, rows.texts, drawn)
    if placing != "both":
        return replace(rows, texts=tuple(placed))
    return rows.and_copies(placed)


def texts_in_context(
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
