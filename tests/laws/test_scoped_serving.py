"""The law of serving, for probes of some turns: their verdicts are those of their turns alone.

The reference is `Network.forward` on the states of the scope's tokens, from a pass over the whole
conversation by itself. Probes of every aggregator that can be tapped, of every scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from torch import Tensor

from chat_templates import chat_backend
from pillion.backends.transformers import TransformersBackend
from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES, SCOPES, Tokens, Turn
from pillion.probe import AGGREGATORS, Artefact
from pillion.runtime import (
    ContinuousEngine,
    Finished,
    PagedSettings,
    PromptRead,
    Request,
    continuous_engine,
    paged_reading,
)
from pillion.runtime import TokenEvent as Token
from pillion.runtime.classifier import RowClassifier
from pillion.sidecache import PagedGroup
from pillion.sidecache.pages import Pages
from talks import continued, talks
from tiny_models import distance, full_states, make_artefact, offline, probs_of

pytestmark = pytest.mark.usefixtures("one_thread")

LIMIT = 1e-4

TALKS = talks("You serve a bank.", last="My balance, please!")


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return chat_backend()


@pytest.fixture(scope="module")
def every(backend: TransformersBackend) -> list[Artefact]:
    """A probe of each aggregator and each scope."""
    return [
        make_artefact(f"{name}-{scope}", backend.identity, name, template="chat", scope=scope)
        for name in AGGREGATORS
        for scope in SCOPES
    ]


def sizes(page_tokens: int, cache_tokens: int = 2048) -> PagedSettings:
    return PagedSettings(page_tokens, cache_tokens, max_chunk_tokens=24, max_requests=8)


async def answer(engine: ContinuousEngine, row: Tokens, max_tokens: int = 8) -> list[Any]:
    return [event async for event in engine.submit(Request("same", row, max_tokens))]


def serve(
    backend: TransformersBackend,
    probes: Sequence[Artefact],
    settings: PagedSettings,
    work: Any,
    own_pass: bool = False,
) -> Any:
    """What `work` gives with an engine; where it may not, no prompt takes a pass of its own."""

    passes: list[Any] = []

    class Watched(RowClassifier):
        async def classify(self, rows: Any, artefacts: Any, owner: str = "") -> Any:
            passes.append(rows)
            return await super().classify(rows, artefacts, owner)

    async def run() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(continuous_engine, "RowClassifier", Watched)
            engine = ContinuousEngine(backend, probes, settings)
        await engine.start()
        try:
            found = await work(engine)
            assert bool(passes) == own_pass
            return found
        finally:
            await engine.close()

    return asyncio.run(run())


def wanted(probe: Artefact, row: Tokens, states: Tensor, num_answered: int | None) -> Tensor | None:
    """Of the prompt, or of so many tokens of the answer; None where the scope is absent."""
    scope = probe.card.scope
    if num_answered is None:
        ranges = row.ranges(scope) if scope in PROMPT_SCOPES else ()
    else:
        ranges = (range(len(row), len(row) + num_answered),) if scope in ANSWER_SCOPES else ()
    return offline(probe, states, ranges) if sum(map(len, ranges)) else None


def check(
    backend: TransformersBackend, probes: Sequence[Artefact], row: Tokens, events: Sequence[Any]
) -> None:
    """Raises unless every verdict of a request is that of its scope's tokens, or absent as it."""
    first, *tokens, last = events
    assert isinstance(first, PromptRead) and isinstance(last, Finished)
    ids = [token.token_id for token in tokens]
    states = full_states(backend, [*row, *ids])
    read = len(ids) - (last.reason == "length")
    some = [(first.verdicts, None), (last.verdicts, read)]
    some += [(tokens[n].verdicts, n) for n in (0, len(ids) // 2) if ids]
    for verdicts, num_answered in some:
        for probe in probes:
            expected = wanted(probe, row, states, num_answered)
            assert (probe.name in verdicts) == (expected is not None), probe.name
            if expected is not None:
                got = probs_of(verdicts[probe.name], probe)
                assert distance(got, expected) < LIMIT, probe.name


def going_on(backend: TransformersBackend, number: int, events: Sequence[Any]) -> Tokens:
    """The conversation behind the answer that it got."""
    drawn = [event.token_id for event in events if isinstance(event, Token)]
    return continued(backend.encode_chat, TALKS[number], drawn)


@pytest.mark.parametrize("held_tokens", [64, 0], ids=["layers-at-once", "layer-by-layer"])
@pytest.mark.parametrize("page_tokens", [4, 32])
def test_a_conversation_that_goes_on_is_read_by_its_turns_of_now(
    backend: TransformersBackend,
    every: list[Artefact],
    page_tokens: int,
    held_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests together, in chunks, with shared prefixes; then each goes on by two turns.

    The last user's turn has moved on, and pages that the answer filled are read as an earlier turn.
    Layer by layer only the words of the scope are tapped.
    """
    monkeypatch.setattr(paged_reading, "HELD_STEP_TOKENS", held_tokens)
    rows = [backend.encode_chat(turns) for turns in TALKS]

    async def work(engine: ContinuousEngine) -> Any:
        first = [await answer(engine, rows[0], page_tokens + 8)]
        first += await asyncio.gather(*(answer(engine, row, page_tokens + 8) for row in rows[1:]))
        later = [going_on(backend, i, events) for i, events in enumerate(first)]
        return first, later, await asyncio.gather(*(answer(engine, row) for row in later))

    first, later, second = serve(backend, every, sizes(page_tokens), work)
    assert first[1][0].cached_tokens > 0, "no prefix was shared"
    for row, events, longer, more in zip(rows, first, later, second, strict=True):
        check(backend, every, row, events)
        assert more[0].cached_tokens > len(row), "no page that the answer filled was shared"
        check(backend, every, longer, more)


def test_answers_to_one_prompt_and_those_begun_again_keep_their_verdicts(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    row = backend.encode_chat(TALKS[2])
    others = [backend.encode_chat((Turn("user", text),)) for text in ("One", "Two", "Three")]
    rows = [row, row, row, *others]

    async def work(engine: ContinuousEngine) -> Any:
        found = await asyncio.gather(*(answer(engine, one, 40) for one in rows))
        return found, engine.stats().preemptions

    found, preemptions = serve(backend, every, sizes(4, 240), work)
    assert preemptions > 0, "nothing was put back"
    for one, events in zip(rows, found, strict=True):
        check(backend, every, one, events)


def test_probes_that_are_swapped_read_the_turns_of_those_in_flight_too(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    """Pages that an older request fills for itself answer those who come for other probes."""
    half = len(every) // 2
    old, new = every[:half], every[half:]
    rows = [backend.encode_chat(turns) for turns in TALKS[:2]]

    async def work(engine: ContinuousEngine) -> Any:
        early = engine.submit(Request("early", rows[0], 20))
        events = [await anext(early) for _ in range(3)]
        await engine.set_probes(new)
        events += [event async for event in early]
        return events, await asyncio.gather(*(answer(engine, row) for row in rows))

    early, late = serve(backend, every[:half], sizes(4), work)
    check(backend, old, rows[0], early)
    assert min(events[0].cached_tokens for events in late) > 0
    for row, events in zip(rows, late, strict=True):
        check(backend, new, row, events)


def test_pages_that_others_filled_without_turns_are_read_again(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    """The same tokens as a raw prompt have no turns: a prompt that shares them asks for its own."""
    row = backend.encode_chat(TALKS[0])

    async def work(engine: ContinuousEngine) -> Any:
        raw = await answer(engine, Tokens(row))
        return raw, await answer(engine, row)

    raw, events = serve(backend, every, sizes(4), work, own_pass=True)
    check(backend, every, Tokens(row), raw)
    assert events[0].cached_tokens > 0
    check(backend, every, row, events)


def test_an_engine_that_kept_no_pages_of_answers_would_be_seen(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a prompt that goes on from an answer asks for what was not kept."""
    probe = make_artefact("p", backend.identity, template="chat", scope="assistant")
    whole = PagedGroup.plan

    def forget(*_: Any) -> None:
        pass

    def forgetful(self: PagedGroup, decodes: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Pages, "close", forget)
            return whole(self, decodes)

    async def work(engine: ContinuousEngine) -> Any:
        later = going_on(backend, 0, await answer(engine, backend.encode_chat(TALKS[0]), 20))
        return later, await answer(engine, later)

    monkeypatch.setattr(PagedGroup, "plan", forgetful)
    later, events = serve(backend, [probe], sizes(4), work, own_pass=True)
    check(backend, [probe], later, events)


def test_reading_every_token_would_be_seen(backend: TransformersBackend) -> None:
    """The control."""
    row = backend.encode_chat(TALKS[0])
    probes = [
        make_artefact(scope, backend.identity, template="chat", scope=scope) for scope in SCOPES
    ]

    async def work(engine: ContinuousEngine) -> Any:
        return await answer(engine, row)

    events = serve(backend, probes, sizes(4), work)
    every = probs_of(events[0].verdicts["all"], probes[-1])
    for probe in probes[:-1]:
        if probe.name in events[0].verdicts:
            got = probs_of(events[0].verdicts[probe.name], probe)
            assert distance(got, every) > 20 * LIMIT
