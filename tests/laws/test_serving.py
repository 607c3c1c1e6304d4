"""The law of serving: whatever else is in flight, a verdict is that of the same tokens alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError, StateError
from pillion.probe import Artefact
from pillion.runtime import (
    ContinuousEngine,
    Engine,
    Finished,
    LanguageModel,
    PagedSettings,
    PlainEngine,
    PromptRead,
    Request,
    Sampling,
    TokenEvent,
)
from pillion.sidecache.paged_group import PagedGroup
from tiny_models import (
    all_artefacts,
    full_states,
    make_artefact,
    off_by,
    probs_of,
    random_ids,
    tiny_backend,
    tiny_model,
    tiny_tokenizer,
)

SMALL = PagedSettings(page_tokens=4, cache_tokens=1024, max_chunk_tokens=32)
"""Chunks shorter than most prompts."""
TIGHT = PagedSettings(page_tokens=4, cache_tokens=160, max_chunk_tokens=32)
"""A cache that the requests of a test do not fit in together."""
EXACT = 1e-4


@pytest.fixture(params=["llama", "qwen3"])
def backend(request: pytest.FixtureRequest) -> TransformersBackend:
    return tiny_backend(request.param)


@pytest.fixture
def every(backend: TransformersBackend) -> list[Artefact]:
    """Probes of every aggregator; some read other layers."""
    return [
        *all_artefacts(backend.identity),
        make_artefact("first", backend.identity, layers=(0, 2), seed=9),
    ]


@asynccontextmanager
async def serving(
    backend: TransformersBackend, probes: Sequence[Artefact], settings: PagedSettings = SMALL
) -> AsyncIterator[ContinuousEngine]:
    engine = ContinuousEngine(backend, probes, settings)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def answer(engine: ContinuousEngine, ids: Sequence[int], max_tokens: int = 9) -> list[Any]:
    return [event async for event in engine.submit(Request("same", tuple(ids), max_tokens))]


def prompts(count: int = 6) -> list[list[int]]:
    """Prompts of 4 to 70 tokens; every other one begins like those before it."""
    shared = random_ids(33, seed=50)
    lengths = (4, 37, 1, 18, 25, 30, 9, 12)
    return [
        (shared if i % 2 else []) + random_ids(lengths[i % 8] + 3, seed=i) for i in range(count)
    ]


def tokens_of(events: Sequence[Any]) -> list[TokenEvent]:
    return [event for event in events if isinstance(event, TokenEvent)]


def worst(
    backend: TransformersBackend, probes: Sequence[Artefact], ids: list[int], events: Sequence[Any]
) -> float:
    """The largest error of any probability in the events of a request, prompt and answer."""
    first, *_, last = events
    assert isinstance(first, PromptRead) and isinstance(last, Finished)
    tokens = tokens_of(events)
    states = full_states(backend, [*ids, *(token.token_id for token in tokens)])
    errors: list[float] = []

    def compare(verdicts: Any, begin: int, end: int) -> None:
        assert set(verdicts) == {probe.name for probe in probes}
        for probe in probes:
            errors.append(off_by(verdicts[probe.name], probe, states[:, begin:end]))

    compare(first.verdicts, 0, len(ids))
    assert tokens[0].verdicts == {}
    for place in range(1, len(tokens), 3):
        compare(tokens[place].verdicts, len(ids), len(ids) + place)
    compare(last.verdicts, len(ids), len(ids) + len(tokens) - (last.reason == "length"))
    return max(errors)


def test_verdicts_under_load_are_those_of_the_tokens_alone(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    async def load() -> tuple[list[Any], Any]:
        async with serving(backend, every) as engine:
            first = await asyncio.gather(*(answer(engine, ids) for ids in prompts()))
            again = await asyncio.gather(*(answer(engine, ids) for ids in prompts()))
            return [*first, *again], engine.stats()

    found, stats = asyncio.run(load())
    hits = [events[0].cached_tokens for events in found]
    assert sum(hits) == stats.cached_tokens > 0
    assert max(hits) >= 32, "no prefix of several pages was shared"
    assert stats.running == stats.waiting == 0
    assert stats.prompt_tokens == 2 * sum(map(len, prompts()))
    assert stats.generated_tokens == sum(len(tokens_of(events)) for events in found)
    for ids, events in zip([*prompts(), *prompts()], found, strict=True):
        assert worst(backend, every, ids, events) < EXACT


def test_verdicts_and_tokens_equal_those_of_the_language_model(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    texts = ["A question?", "Another, longer question than the first.", "A question? And more."]
    lm = LanguageModel(backend)

    async def load() -> list[Any]:
        async with serving(backend, every) as engine:
            rows = [engine.codec.encode(text, "raw") for text in texts]
            return await asyncio.gather(*(answer(engine, ids) for ids in rows))

    for text, events in zip(texts, asyncio.run(load()), strict=True):
        (offline_verdicts,) = lm.score([text], every, "raw")
        alone = lm.stream(text, every, max_tokens=9, template="raw")
        assert [t.token_id for t in tokens_of(events)] == [t.token_id for t in alone]
        assert alone.result is not None
        for probe in every:
            for got, want in (
                (events[0].verdicts, offline_verdicts),
                (events[-1].verdicts, alone.result.response),
            ):
                one, two = (probs_of(v[probe.name], probe) for v in (got, want))
                assert (one - two).abs().max() < EXACT


def test_pooling_only_the_rows_of_the_step_is_clearly_another_result(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a prefix hit and all chunks but the last are forgotten."""
    probe = make_artefact("p", backend.identity)

    whole = PagedGroup.take

    def step_only(self: PagedGroup, row: int, *what: Any) -> None:
        self.reset(row)
        whole(self, row, *what)

    monkeypatch.setattr(PagedGroup, "take", step_only)
    shared, other = random_ids(24, seed=50), random_ids(70, seed=3)

    async def load() -> list[Any]:
        async with serving(backend, [probe]) as engine:
            await answer(engine, shared)
            return [await answer(engine, [*shared, 5, 6]), await answer(engine, other)]

    hit, chunked = asyncio.run(load())
    assert hit[0].cached_tokens == 24
    assert worst(backend, [probe], [*shared, 5, 6], hit) > 0.02
    assert worst(backend, [probe], other, chunked) > 0.02


def test_requests_that_are_put_back_and_begun_again_keep_their_verdicts(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    rows = [random_ids(20 + i, seed=i) for i in range(5)]

    async def load() -> tuple[list[Any], Any]:
        async with serving(backend, every, TIGHT) as engine:
            found = await asyncio.gather(*(answer(engine, ids, 28) for ids in rows))
            return found, engine.stats()

    found, stats = asyncio.run(load())
    assert stats.preemptions > 0, "nothing was put back"
    for ids, events in zip(rows, found, strict=True):
        assert len(tokens_of(events)) == 28
        assert worst(backend, every, ids, events) < EXACT


def test_requests_that_are_given_up_leave_their_slots_and_others_alone(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    rows = [random_ids(20 + i, seed=i) for i in range(8)]

    async def give_up(engine: ContinuousEngine, ids: list[int], after: int) -> None:
        events = engine.submit(Request("same", tuple(ids), 60))
        for _ in range(after):
            await anext(events)
        await events.aclose()

    async def load() -> tuple[list[Any], Any]:
        async with serving(backend, every, TIGHT) as engine:
            for _ in range(2):  # all of them: those who wait must still get their turn
                await asyncio.gather(*(give_up(engine, ids, 3) for ids in rows))
            found, _ = await asyncio.gather(
                asyncio.gather(*(answer(engine, ids, 12) for ids in rows[:4])),
                asyncio.gather(*(give_up(engine, ids, 5) for ids in rows[4:])),
            )
            while engine.stats().running:
                await asyncio.sleep(0.01)
            assert await answer(engine, random_ids(100, seed=3), 40)  # nearly the whole cache
            return found, engine.stats()

    found, stats = asyncio.run(load())
    assert stats.running == stats.waiting == 0
    for ids, events in zip(rows[:4], found, strict=True):
        assert worst(backend, every, ids, events) < EXACT


def test_probes_are_swapped_between_steps_and_old_prefixes_are_dropped(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    old, new = every[:3], [make_artefact("new", backend.identity, seed=11)]
    ids, other = random_ids(30, seed=1), random_ids(21, seed=2)

    async def load() -> tuple[list[Any], list[Any], list[Any], list[Any]]:
        async with serving(backend, old) as engine:
            await answer(engine, ids)
            early = engine.submit(Request("early", tuple(other), 30))
            events = [await anext(early) for _ in range(4)]
            await engine.set_probes(new)
            assert list(engine.probes) == ["new"]
            first, (rest) = await asyncio.gather(answer(engine, ids), _rest(early))
            hit = await answer(engine, ids)
            await engine.set_probes([])
            bare = await answer(engine, ids)
            assert bare[0].verdicts == bare[-1].verdicts == {}
            return [*events, *rest], first, hit, bare

    early, first, hit, bare = asyncio.run(load())
    assert first[0].cached_tokens == bare[0].cached_tokens == 0 < hit[0].cached_tokens
    assert worst(backend, old, other, early) < EXACT
    for events in (first, hit):
        assert worst(backend, new, ids, events) < EXACT


async def _rest(events: Any) -> list[Any]:
    return [event async for event in events]


def test_texts_are_classified_while_others_are_answered(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    rows = prompts(7)

    async def load() -> tuple[list[Any], list[Any], list[Any]]:
        async with serving(backend, every) as engine:
            answered = [asyncio.create_task(answer(engine, ids, 20)) for ids in rows[:3]]
            await asyncio.sleep(0.05)
            one_by_one = await asyncio.gather(*(engine.classify([row]) for row in rows))
            together = await engine.classify(rows)
            return [found[0] for found in one_by_one], together, await asyncio.gather(*answered)

    one_by_one, together, answered = asyncio.run(load())
    for ids, *found in zip(rows, one_by_one, together, strict=True):
        states = full_states(backend, ids)
        for verdicts in found:
            for probe in every:
                assert off_by(verdicts[probe.name], probe, states) < EXACT
    for ids, events in zip(rows, answered, strict=False):
        assert worst(backend, every, ids, events) < EXACT


def test_some_layers_may_have_sliding_windows_but_not_all() -> None:
    from transformers import AutoModelForCausalLM, Qwen3Config

    def model(kinds: list[str]) -> TransformersBackend:
        config = tiny_model("qwen3").config.to_dict()
        window = {"use_sliding_window": True, "sliding_window": 8, "layer_types": kinds}
        network: Any = AutoModelForCausalLM.from_config(Qwen3Config(**config | window))
        return TransformersBackend(network.eval(), tiny_tokenizer(), "tiny")

    sliding, full = "sliding_attention", "full_attention"
    backend, ids = model([sliding, full, sliding]), random_ids(50, seed=1)
    probe = make_artefact("p", backend.identity)

    async def load() -> list[Any]:
        async with serving(backend, [probe]) as engine:
            return await asyncio.gather(answer(engine, ids), answer(engine, ids[:20]))

    for row, events in zip((ids, ids[:20]), asyncio.run(load()), strict=True):
        assert worst(backend, [probe], row, events) < EXACT
    with pytest.raises(ConfigError, match="sliding-window attention in every layer"):
        ContinuousEngine(model([sliding] * 3), [], SMALL)


def test_states_that_are_not_finite_end_their_own_request_only(
    backend: TransformersBackend,
) -> None:
    ids, bad = random_ids(30, seed=1), 95
    with torch.no_grad():
        backend.model.get_input_embeddings().weight[bad] = torch.nan
    probe = make_artefact("p", backend.identity)
    good = [token if token != bad else 0 for token in ids]

    async def load() -> tuple[Any, Any]:
        async with serving(backend, [probe]) as engine:
            return await asyncio.gather(
                answer(engine, [*good[:20], bad, *good[20:]]),
                answer(engine, good, 1),  # it would draw the bad one
                return_exceptions=True,
            )

    failed, answered = asyncio.run(load())
    assert isinstance(failed, StateError) and "layer 0 at token 20" in str(failed)
    assert off_by(answered[0].verdicts["p"], probe, full_states(backend, good)) < EXACT


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_requests_draw_in_their_own_way_whatever_else_runs(
    backend: TransformersBackend, top_p: float
) -> None:
    ids = tuple(random_ids(12, seed=1))
    ways = [Sampling(), *(Sampling(t, top_p, seed) for t in (0.7, 1.5) for seed in (0, 1))]
    asked = [Request(f"{i}", ids, 8, way, top_logprobs=3) for i, way in enumerate(ways)]

    async def all_of(engine: Engine) -> list[Any]:
        await engine.start()
        try:
            return await asyncio.gather(*(_rest(engine.submit(request)) for request in asked))
        finally:
            await engine.close()

    batched = asyncio.run(all_of(ContinuousEngine(backend, [], SMALL)))
    alone = asyncio.run(all_of(PlainEngine(backend)))
    assert len({tuple(t.token_id for t in tokens_of(events)) for events in batched}) > 2
    for one, two in zip(batched, alone, strict=True):
        for got, want in zip(tokens_of(one), tokens_of(two), strict=True):
            assert (got.token_id, got.text) == (want.token_id, want.text)
            assert got.logprob == pytest.approx(want.logprob, abs=EXACT)
            assert [i for i, _ in got.top_logprobs] == [i for i, _ in want.top_logprobs]


@pytest.mark.model
@pytest.mark.parametrize("dtype, near", [(torch.float32, EXACT), (torch.bfloat16, 0.05)], ids=str)
def test_the_embedded_model_serves_the_verdicts_that_it_scores(
    dtype: torch.dtype, near: float
) -> None:
    from pillion.backends import load_backend

    backend = load_backend(dtype=str(dtype).removeprefix("torch."))
    assert isinstance(backend, TransformersBackend)
    probes = [make_artefact(name, backend.identity, seed=i) for i, name in enumerate("abc")]
    shared = "You are a careful assistant. Answer in one short sentence, and never guess. "
    texts = [shared + question for question in ("Why is the sky blue?", "What is a lake?", "Hm?")]
    settings = PagedSettings(page_tokens=8, cache_tokens=1024, max_chunk_tokens=24)

    async def load() -> tuple[list[Any], Any]:
        async with serving(backend, probes, settings) as engine:
            rows = [engine.codec.encode(text, "chat") for text in texts]
            first = await answer(engine, rows[0], 6)
            others = await asyncio.gather(*(answer(engine, ids, 6) for ids in rows[1:]))
            return [first, *others], engine.stats()

    found, stats = asyncio.run(load())
    assert stats.cached_tokens > 0
    wanted = LanguageModel(backend).score(texts, probes, "chat")
    for events, verdicts in zip(found, wanted, strict=True):
        for probe in probes:
            one, two = (probs_of(v[probe.name], probe) for v in (events[0].verdicts, verdicts))
            assert (one - two).abs().max() < near
