"""Tokenises texts on a cluster: the driver needs neither the tokenizer nor the weights."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from pillion.backends import Backend
from pillion.cluster.pool import Crew
from pillion.cluster.same_model import check_same
from pillion.core import FailedRow, ModelIdentity, OnTooLong, Template, Text
from pillion.extract import Encoded, Progress, encode, silent

UNIT_TEXTS = 2000
"""Texts a unit: a second of work, and a few messages in a million texts."""


def encode_on(
    crew: Crew,
    texts: Sequence[Text | None],
    template: Template,
    on_too_long: OnTooLong = "error",
    progress: Progress = silent,
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
    rows: list[Sequence[int]] = [()] * len(texts)
    failed: list[FailedRow] = []
    identities: list[ModelIdentity] = []
    done_texts = done_tokens = 0
    for done in crew.run(_EncodeJob(template, on_too_long), units):
        part: _Part = done.value
        identities = [*identities[:1], part.identity]
        check_same(identities[0], part.identity)
        rows[part.first_row : part.first_row + len(part.rows)] = part.rows
        failed += part.failed
        done_texts, done_tokens = done_texts + len(part.rows), done_tokens + done.tokens
        progress("encode", done_tokens, round(done_tokens * len(texts) / done_texts))
    return Encoded(identities[0], rows, tuple(sorted(failed, key=lambda row: row.row)))


@dataclass(frozen=True)
class _Unit:
    """Consecutive texts."""

    first_row: int
    texts: tuple[Text | None, ...]


@dataclass(frozen=True)
class _Part:
    """What a worker's model makes of a unit; four bytes a token."""

    identity: ModelIdentity
    first_row: int
    rows: list[array[int]]
    failed: list[FailedRow]


@dataclass(frozen=True)
class _EncodeJob:
    """What a worker does with a unit."""

    template: Template
    on_too_long: OnTooLong

    def __call__(self, backend: Backend, unit: _Unit) -> tuple[_Part, int]:
        encoded = encode(backend, unit.texts, self.template, self.on_too_long)
        rows = [array("i", row) for row in encoded.token_ids]
        failed = [FailedRow(unit.first_row + one.row, one.reason) for one in encoded.failed]
        part = _Part(encoded.identity, unit.first_row, rows, failed)
        return part, sum(map(len, rows))
