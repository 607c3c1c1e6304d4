"""Tokenises texts on a cluster: the driver needs neither the tokenizer nor the weights."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from pillion.backends import Backend
from pillion.cluster.pool import Crew
from pillion.cluster.same_model import check_same
from pillion.core import (
    FailedRow,
    ModelIdentity,
    OnTooLong,
    Scope,
    Segment,
    Template,
    Text,
    Tokens,
    as_tokens,
)
from pillion.extract import Encoded, Progress, encode, silent

UNIT_TEXTS = 2000
"""Texts a unit: a second of work, and a few messages in a million texts."""


def encode_on(
    crew: Crew,
    texts: Sequence[Text | None],
    template: Template,
    on_too_long: OnTooLong = "error",
    progress: Progress = silent,
    scopes: Sequence[Scope] = (),
) -> Encoded:
    """Token ids of every text that fits the model, as `extract.encode` gives them.

    Raises:
        ConfigError: a worker cannot load the model.
        MismatchError: workers have different models under the same name.
    """
    units = [
        _Unit(first, tuple(texts[first : first + UNIT_TEXTS]))
        for first in range(0, len(texts), UNIT_TEXTS)
    ]
    rows = _Rows(len(texts))
    failed: list[FailedRow] = []
    identities: list[ModelIdentity] = []
    done_texts = done_tokens = 0
    for done in crew.run(_EncodeJob(template, on_too_long, tuple(scopes)), units):
        part: _Part = done.value
        identities = [*identities[:1], part.identity]
        check_same(identities[0], part.identity)
        rows.put(part.first_row, part.rows)
        failed += part.failed
        done_texts, done_tokens = done_texts + len(part.rows), done_tokens + done.tokens
        progress("encode", done_tokens, round(done_tokens * len(texts) / done_texts))
    return Encoded(identities[0], rows, tuple(sorted(failed, key=lambda row: row.row)))


class _Rows(Sequence[Tokens]):
    """The tokens of many rows in four bytes each, made whole when a row is asked for."""

    def __init__(self, num_rows: int) -> None:
        empty: array[int] = array("i")
        self._ids = [empty] * num_rows
        self._segments: list[tuple[Segment, ...]] = [()] * num_rows

    def put(self, first: int, rows: Sequence[Tokens]) -> None:
        """Rows that follow each other."""
        for place, row in enumerate(rows, first):
            self._ids[place], self._segments[place] = array("i", row), row.segments

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return Tokens(self._ids[index], self._segments[index])


@dataclass(frozen=True)
class _Unit:
    """Consecutive texts."""

    first_row: int
    texts: tuple[Text | None, ...]


@dataclass(frozen=True)
class _Part:
    """What a worker's model makes of a unit."""

    identity: ModelIdentity
    first_row: int
    rows: Sequence[Tokens]
    failed: list[FailedRow]


@dataclass(frozen=True)
class _EncodeJob:
    """What a worker does with a unit."""

    template: Template
    on_too_long: OnTooLong
    scopes: tuple[Scope, ...] = ()

    def __call__(self, backend: Backend, unit: _Unit) -> tuple[_Part, int]:
        encoded = encode(backend, unit.texts, self.template, self.on_too_long, self.scopes)
        rows = [as_tokens(row) for row in encoded.token_ids]
        failed = [FailedRow(unit.first_row + one.row, one.reason) for one in encoded.failed]
        part = _Part(encoded.identity, unit.first_row, rows, failed)
        return part, sum(map(len, rows))
