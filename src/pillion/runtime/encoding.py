"""Texts and conversations to tokens that fit the model, with one clear error for those that do not.

Promises that every row holds a word of each scope that is read. Knows no probe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

from pillion.backends import Backend, Coder
from pillion.core import (
    Conversation,
    FailedRow,
    ModelIdentity,
    OnTooLong,
    Scope,
    Template,
    Text,
    TextLike,
    Tokens,
    Turn,
    absent,
    as_text,
)
from pillion.errors import ConfigError, DataError, unknown_name
from pillion.probe import Artefact


def usual_template(
    identity: ModelIdentity, given: Template | None, say: Callable[[str], object]
) -> Template:
    """How texts are wrapped by default: by the chat template, if the model has one.

    Args:
        identity: of the model.
        given: what was asked for; None for the usual.
        say: told where a model without a chat template reads texts as they are.
    """
    if given is not None:
        return given
    if identity.template_sha256:
        return "chat"
    say(
        f"Model {identity.name!r} has no chat template (a base model?): texts are read as they "
        "are, as with template raw."
    )
    return "raw"


def shared_template(probes: Sequence[Artefact]) -> Template:
    """How the texts were wrapped that probes were trained on.

    Args:
        probes: one or more, to be read in one pass.

    Raises:
        ConfigError: each in its own way: one pass wraps a text in one.
    """
    names = dict[Template, list[str]]()
    for probe in probes:
        names.setdefault(probe.card.template, []).append(probe.name)
    if len(names) > 1:
        told = "; ".join(f"{way}: {', '.join(own)}" for way, own in names.items())
        raise ConfigError(
            f"The probes were trained on texts wrapped in different ways ({told}), and a pass "
            "wraps each text in one; read them apart, or choose a template."
        )
    return next(iter(names))


def encode_rows(
    backend: Backend,
    texts: Sequence[TextLike],
    template: Template,
    on_too_long: OnTooLong = "error",
    room_tokens: int = 0,
    scopes: Sequence[Scope] = (),
    numbers: Sequence[int] | None = None,
) -> list[Tokens]:
    """Tokens of every text or conversation, each within the model's context window.

    Args:
        backend: whose tokenizer and window count.
        texts: one or more.
        template: how a text is wrapped; conversations want `chat`.
        on_too_long: whether a longer text is an error or is cut.
        room_tokens: tokens to leave free, for an answer.
        scopes: what will be read: each row must hold words of all of them.
        numbers: of the rows, where texts are not all of them in their order; None: 1, 2, ...

    Raises:
        DataError: for a text that is empty, too long or without a turn of a scope, naming its row.
    """
    _check_side(on_too_long)
    rows: list[Tokens] = []
    for number, text in zip(numbers or range(1, len(texts) + 1), texts, strict=True):
        try:
            told = as_text(text)
            rows.append(encode_row(backend, told, template, on_too_long, room_tokens, scopes))
        except DataError as error:
            raise DataError(f"Row {number}: {error}") from error
    return rows


def sift_rows(
    backend: Backend,
    texts: Sequence[TextLike | None],
    template: Template,
    on_too_long: OnTooLong = "error",
    scopes: Sequence[Scope] = (),
) -> tuple[list[Tokens], list[FailedRow]]:
    """Tokens of every text that fits the model, and the rows of those that do not.

    Args:
        backend: whose tokenizer and window count.
        texts: None for one that failed before.
        template: how a text is wrapped.
        on_too_long: whether a longer text fails or is cut.
        scopes: what will be read: a row without words of all of them fails.

    Returns:
        Tokens of every row, none for one that failed here or before; the rows that failed here.
    """
    _check_side(on_too_long)
    rows: list[Tokens] = []
    failed: list[FailedRow] = []
    for number, text in enumerate(texts, start=1):
        tokens = Tokens()
        if text is not None:
            try:
                tokens = encode_row(backend, as_text(text), template, on_too_long, 0, scopes)
            except DataError as error:
                failed.append(FailedRow(number, str(error)))
        rows.append(tokens)
    return rows, failed


def _check_side(on_too_long: str) -> None:
    if on_too_long not in get_args(OnTooLong):
        raise unknown_name("on_too_long", on_too_long, get_args(OnTooLong))


def encode_row(
    backend: Backend,
    text: Text,
    template: Template,
    on_too_long: OnTooLong,
    room_tokens: int,
    scopes: Sequence[Scope],
) -> Tokens:
    """Tokens of one text or conversation; see `encode_rows`, whose errors name the row too."""
    if isinstance(text, str) and not text.strip():
        raise DataError("the text is empty; give it some words or drop the row.")
    if not isinstance(text, str) and template == "raw":
        raise DataError(
            "turns need the model's chat template; take the template chat, or rows with a text."
        )
    window = backend.identity.context_tokens - room_tokens
    tokens = tokens_of(backend, text, template)
    if len(tokens) > window:
        if on_too_long == "error":
            other_way = "have it cut (truncate-head or truncate-tail)"
            if room_tokens:
                other_way = "ask for a shorter answer"
            raise DataError(
                f"the text has {len(tokens):,} tokens, the model takes {window:,}"
                f"{' beside the answer' if room_tokens else ''}; shorten it, or {other_way}."
            )
        tokens = _cut(backend, text, template, on_too_long, window)
    for scope in scopes:
        if (why := absent(tokens, scope)) is not None:
            raise DataError(f"{why}; give such a turn, or read another scope.")
    return tokens


def tokens_of(coder: Coder, text: Text, template: Template) -> Tokens:
    """Tokens of a text, wrapped as the template says, or of a conversation; however many."""
    return coder.encode(text, template) if isinstance(text, str) else coder.encode_chat(text)


def _cut(backend: Backend, text: Text, template: Template, side: OnTooLong, window: int) -> Tokens:
    """Drops tokens of the text, never of the template around it, until it fits.

    Of a conversation `truncate-head` drops whole exchanges first, from the first one on, but no
    system turn and not the last turn; then, as `truncate-tail` does, words of the last turn.
    """
    if isinstance(text, str):
        return _cut_words(
            backend, text, side, window, lambda words: backend.encode(words, template)
        )
    turns = text
    while side == "truncate-head" and len(backend.encode_chat(turns)) > window:
        if (fewer := _without_first_exchange(turns)) is None:
            break
        turns = fewer
    *before, last = turns

    def encode(words: str) -> Tokens:
        return backend.encode_chat((*before, replace(last, content=words)))

    return _cut_words(backend, last.content, side, window, encode)


def _without_first_exchange(turns: Conversation) -> Conversation | None:
    """The turns without the first user's and what follows it up to the next; None for the last."""
    users = [n for n, turn in enumerate(turns) if turn.role == "user"]
    if len(users) < 2:
        return None
    kept: list[Turn] = [*turns[: users[0]], *turns[users[1] :]]
    return tuple(kept)


def _cut_words(
    backend: Backend, text: str, side: OnTooLong, window: int, encode: Callable[[str], Tokens]
) -> Tokens:
    tokens, words = encode(text), backend.encode(text, "raw")
    while len(tokens) > window:
        excess = len(tokens) - window
        if excess >= len(words):
            raise DataError(
                f"the chat template alone takes more than the {window:,} tokens that the model has "
                "room for; take the template raw, or a model with a larger window."
            )
        kept = words[excess:] if side == "truncate-head" else words[:-excess]
        words = Tokens(kept)
        # A character that the cut went through is dropped, not replaced.
        tokens = encode(backend.decode(words).strip("\ufffd"))
    return tokens
