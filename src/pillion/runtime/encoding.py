"""Texts to token ids that fit the model, with one clear error for those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from pillion.backends import Backend
from pillion.core import FailedRow, OnTooLong, Template, Text
from pillion.errors import DataError, unknown_name


def encode_rows(
    backend: Backend,
    texts: Sequence[Text],
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
    _check_side(on_too_long)
    rows: list[list[int]] = []
    for number, text in enumerate(texts, start=1):
        try:
            rows.append(_encode_row(backend, text, template, on_too_long, room_tokens))
        except DataError as error:
            raise DataError(f"Row {number}: {error}") from error
    return rows


def sift_rows(
    backend: Backend,
    texts: Sequence[Text | None],
    template: Template,
    on_too_long: OnTooLong = "error",
) -> tuple[list[list[int]], list[FailedRow]]:
    """Token ids of every text that fits the model, and the rows of those that do not.

    Args:
        backend: whose tokenizer and window count.
        texts: None for one that failed before.
        template: how a text is wrapped.
        on_too_long: whether a longer text fails or is cut.

    Returns:
        Token ids of every row, none for one that failed here or before; the rows that failed here.
    """
    _check_side(on_too_long)
    rows: list[list[int]] = []
    failed: list[FailedRow] = []
    for number, text in enumerate(texts, start=1):
        ids: list[int] = []
        if text is not None:
            try:
                ids = _encode_row(backend, text, template, on_too_long)
            except DataError as error:
                failed.append(FailedRow(number, str(error)))
        rows.append(ids)
    return rows, failed


def _check_side(on_too_long: str) -> None:
    if on_too_long not in get_args(OnTooLong):
        raise unknown_name("--on-too-long", on_too_long, get_args(OnTooLong))


def _encode_row(
    backend: Backend,
    text: Text,
    template: Template,
    on_too_long: OnTooLong,
    room_tokens: int = 0,
) -> list[int]:
    """Token ids of one text, within the window."""
    if not isinstance(text, str):
        raise DataError("rows that are conversations cannot be encoded yet; give texts.")
    if not text.strip():
        raise DataError("the text is empty; give it some words or drop the row.")
    window = backend.identity.context_tokens - room_tokens
    ids = backend.encode(text, template)
    if len(ids) <= window:
        return ids
    if on_too_long == "error":
        raise DataError(
            f"the text has {len(ids):,} tokens, the model takes {window:,}"
            f"{' beside the answer' if room_tokens else ''}; shorten it, or use "
            "--on-too-long truncate-head or truncate-tail."
        )
    return _cut(backend, text, template, on_too_long, window)


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
                f"the chat template alone takes more than the {window:,} tokens that the model has "
                "room for; use --template raw or a model with a larger window."
            )
        words = words[excess:] if side == "truncate-head" else words[:-excess]
        # A character that the cut went through is dropped, not replaced.
        ids = backend.encode(backend.decode(words).strip("\ufffd"), template)
    return ids
