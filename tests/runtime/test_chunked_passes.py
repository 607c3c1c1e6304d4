"""Work beside an engine goes piece by piece, in turns, and gives what it gives in one go."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.errors import StateError
from pillion.runtime import ContinuousEngine, LanguageModel, PagedSettings, Request, explain
from pillion.runtime.chunked_passes import FIRST_TOKENS, IDLE_TOKENS, LEAST_TOKENS, ChunkedPasses
from pillion.runtime.classifier import RowClassifier
from pillion.runtime.explanation import explain_row
from tiny_models import all_artefacts, full_states, make_artefact, off_by, random_ids, tiny_backend

SMALL = PagedSettings(page_tokens=4, cache_tokens=1024, max_chunk_tokens=32, max_requests=4)
EXACT = 1e-4


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def backend(request: pytest.FixtureRequest) -> TransformersBackend:
    return tiny_backend(request.param)


def small(backend: Any) -> ChunkedPasses:
    """Pieces of the fewest tokens, as beside steps that take no time."""
    pieces = ChunkedPasses(backend, nullcontext, lambda: 1e-9)
    pieces._tokens = float(LEAST_TOKENS)  # type: ignore[reportPrivateUsage]
    return pieces


@pytest.mark.parametrize("price", [0.0, 0.05, 0.1])
def test_pieces_come_to_take_as_long_as_a_step_and_a_half(price: float) -> None:
    """By tokens a second they shrank to the fewest, whose price is mostly that of a pass."""
    step: list[float | None] = [None]
    pieces = ChunkedPasses(FakeBackend(), nullcontext, lambda: step[0])
    assert pieces.budget() == IDLE_TOKENS
    step[0] = 0.1

    def seconds() -> float:
        return price + pieces.budget() / 2000

    for _ in range(30):
        pieces.learn(pieces.budget(), seconds())
    assert seconds() == pytest.approx(0.15, rel=0.1)
    step[0] = 1e-6
    for _ in range(30):
        pieces.learn(pieces.budget(), seconds())
    assert pieces.budget() == LEAST_TOKENS


def test_texts_that_are_read_piece_by_piece_get_the_verdicts_that_they_get_alone(
    backend: TransformersBackend,
) -> None:
    """A long text beside a stream stopped it until the text had been read."""
    kinds = {"gate", "mha", "mha-causal", "multimax", "rolling"}
    served = [p for p in all_artefacts(backend.identity) if p.card.probe in kinds]
    rows = [random_ids(n, seed=n) for n in (200, 3, 77, 16, 17, 120)]
    engine = ContinuousEngine(backend, served, SMALL)
    engine._passes._tokens = float(LEAST_TOKENS)  # type: ignore[reportPrivateUsage]
    engine._passes.step_seconds = lambda: 1e-9  # type: ignore[reportPrivateUsage]

    async def use() -> list[Any]:
        await engine.start()
        try:
            events = engine.submit(Request("r", tuple(random_ids(9)), 200))
            await anext(events)
            found = await engine.classify(rows)
            await events.aclose()
            return found
        finally:
            await engine.close()

    for ids, verdicts in zip(rows, asyncio.run(use()), strict=True):
        states = full_states(backend, ids)
        for probe in served:
            assert off_by(verdicts[probe.name], probe, states) < EXACT, (probe.name, len(ids))


@pytest.mark.parametrize("kind", ["gate", "attention"])
def test_a_text_that_is_explained_piece_by_piece_is_explained_as_in_one_go(
    backend: TransformersBackend, kind: str
) -> None:
    probe = make_artefact("p", backend.identity, kind)
    text, model = "a text of some length, which takes several pieces", LanguageModel(backend)
    pieces = small(backend)
    row = backend.encode(text, probe.card.template)
    one, several = explain(model, probe, text), explain_row(model, probe, row, pieces)
    assert len(one.token_ids) > 2 * LEAST_TOKENS
    np.testing.assert_allclose(several.contributions, one.contributions, atol=1e-4)
    assert several.logits == pytest.approx(one.logits, abs=1e-4)


class Noting(FakeBackend):
    """Notes the first token of every row that it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def forward(self, token_ids: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(token_ids[:, -1].tolist())
        return super().forward(token_ids, *args, **kwargs)


@pytest.mark.parametrize("owner", ["one", "two"], ids=["the same owner", "another owner"])
def test_calls_take_turns_row_by_row(owner: str) -> None:
    """The first caller was served to the end, before all others."""
    backend = Noting()
    probe = make_artefact("p", backend.identity)
    classifier = RowClassifier(small(backend))

    async def ask() -> None:
        many = [[0] * 15 + [1]] * 40
        calls = [
            classifier.classify(many, [probe], "one"),
            classifier.classify(many, [probe], "one"),
        ]
        few = classifier.classify([[0] * 15 + [2]] * 3, [probe], owner)
        await asyncio.gather(*calls, few)

    asyncio.run(ask())
    order = [token for batch in backend.seen for token in batch]
    assert len(order) == 83
    assert max(i for i, token in enumerate(order) if token == 2) < 14


def test_a_row_at_fault_fails_its_own_call_and_no_other() -> None:
    backend = FakeBackend()
    probe = make_artefact("p", backend.identity)
    backend.embeddings[7] = torch.nan
    classifier = RowClassifier(ChunkedPasses(backend, nullcontext))

    async def ask() -> list[Any]:
        calls = ([[1, 2]], [[7, 2]], [[1, 2], [3]])
        return await asyncio.gather(
            *(classifier.classify(rows, [probe]) for rows in calls), return_exceptions=True
        )

    first, bad, last = asyncio.run(ask())
    assert isinstance(bad, StateError)
    assert first[0]["p"].probs == pytest.approx(last[0]["p"].probs, abs=1e-6) and len(last) == 2


@pytest.mark.parametrize("rows", [[[1] * 40] * 8, [[1] * 320]], ids=["many", "long"])
def test_who_begins_to_stream_while_a_piece_waits_for_the_model_does_not_wait_for_all_of_it(
    rows: list[list[int]],
) -> None:
    """The piece was put together while no stream ran: streams stood still for 13 s."""
    step: list[float | None] = [None]

    @contextmanager
    def alone() -> Generator[None]:
        step[0] = 1e-9  # a stream has begun meanwhile
        yield

    backend = FakeBackend()
    probe = make_artefact("p", backend.identity)
    pieces, sizes = ChunkedPasses(backend, alone, lambda: step[0]), list[int]()
    pieces.learn = lambda tokens, seconds: sizes.append(tokens)  # type: ignore[method-assign]
    found = asyncio.run(RowClassifier(pieces).classify(rows, [probe]))
    alone_found = LanguageModel(backend).score_rows(rows, [probe])
    assert len(found) == len(rows)
    np.testing.assert_allclose(
        [list(one["p"].probs.values()) for one in found],
        [list(one["p"].probs.values()) for one in alone_found],
        atol=EXACT,
    )
    assert max(sizes) <= FIRST_TOKENS and sum(sizes) == 320


def test_between_two_pieces_the_engine_takes_a_step() -> None:
    entered = 0

    @contextmanager
    def alone() -> Generator[None]:
        nonlocal entered
        entered += 1
        yield

    backend = FakeBackend()
    probe = make_artefact("p", backend.identity)
    pieces = small(backend)
    pieces.alone = alone
    classifier = RowClassifier(pieces)
    asyncio.run(classifier.classify([[1] * 5 * LEAST_TOKENS], [probe]))
    assert entered == 5
