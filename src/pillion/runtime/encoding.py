"""Texts to token ids that fit the model, with one clear error for those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from pillion.backends import Backend
from pillion.core import OnTooLong, Template
from pillion.errors import DataError, unknown_name


def encode_rows(
    backend: Backend,
    texts: Sequence[str],
    template: Template,
    on_too_long: OnTooLong = "error",
    room_tokens: int = 0,
) -> list[list[int]]:
    """Token ids of every text, each within the model's context window.

    Args:
        backend: whose tokenizer and window count.
        texts: one or more.
        template: how a text is wrapped.
        on_too_long: whether a longer text is an error or is cut.
        room_tokens: tokens to leave free, for an answer.

    Raises:
        DataError: for an empty text or one that is too long, naming its row (from 1).
    """
    if on_too_long not in get_args(OnTooLong):
        raise unknown_name("--on-too-long", on_too_long, get_args(OnTooLong))
    window = backend.identity.context_tokens - room_tokens
    rows: list[list[int]] = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise DataError(f"Row {number}: the text is empty; give it some words or drop the row.")
        ids = backend.encode(text, template)
        if len(ids) > window:
            if on_too_long == "error":
                raise DataError(
                    f"Row {number}: the text has {len(ids):,} tokens, the model takes {window:,}"
                    f"{' beside the answer' if room_tokens else ''}; shorten it, or use "
                    "--on-too-long truncate-head or truncate-tail."
                )
            ids = _cut(backend, text, template, on_too_long, window)
        rows.append(ids)
    return rows


def _cut(
    backend: Backend, text: str, template: Template, side: OnTooLong, window: int
) -> list[int]:
    """Drops tokens of the text, never of the template around it, until it fits."""
    words = backend.encode(text, "raw")
    ids = backend.encode(text, template)
    while len(ids) > window:
        excess = len(ids) - window
        if excess >= len(words):
            raise DataError(
                f"The chat template alone takes more than the {window:,} tokens that the model has "
                "room for; use --template raw or a model with a larger window."
            )
        words = words[excess:] if side == "truncate-head" else words[:-excess]
        # A character that the cut went through is dropped, not replaced.
        ids = backend.encode(backend.decode(words).strip("\ufffd"), template)
    return ids
