"""The texts of a run as token ids, with the rows that do not fit the model set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pillion.backends import Backend
from pillion.core import FailedRow, ModelIdentity, OnTooLong, Scope, Template, Text
from pillion.runtime.encoding import sift_rows


@dataclass(frozen=True)
class Encoded:
    """What a model makes of texts.

    Attributes:
        identity: the model.
        token_ids: of every row; none for a row that failed.
        failed: the rows that failed here, in order.
    """

    identity: ModelIdentity
    token_ids: Sequence[Sequence[int]]
    failed: tuple[FailedRow, ...]


def encode(
    backend: Backend,
    texts: Sequence[Text | None],
    template: Template,
    on_too_long: OnTooLong = "error",
    scopes: Sequence[Scope] = (),
) -> Encoded:
    """Token ids of every text that fits the model; see `sift_rows`."""
    rows, failed = sift_rows(backend, texts, template, on_too_long, scopes)
    return Encoded(backend.identity, rows, tuple(failed))
