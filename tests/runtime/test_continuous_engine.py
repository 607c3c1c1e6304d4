"""The engine on continuous batching at its edges: what it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from torch import Tensor

from pillion.backends.fake import FakeBackend
from pillion.backends.grammar import Matcher
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError, DataError, MismatchError, RunError
from pillion.runtime import (
    ContinuousEngine,
    Finished,
    PagedSettings,
    Request,
    TokenEvent,
    continuous_engine,
)
from pillion.runtime.continuous_engine import RunningRequest
from tiny_models import hooks_of, make_artefact, random_ids, tiny_backend

SMALL = PagedSettings(page_tokens=4, cache_tokens=256, max_chunk_tokens=32)


@pytest.fixture
def backend() -> TransformersBackend:
    return tiny_backend()


def run(engine: ContinuousEngine, use: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def inside() -> Any:
        await engine.start()
        try:
            return await use()
        finally:
            await engine.close()

    return asyncio.run(inside())


async def answer(engine: ContinuousEngine, ids: list[int], max_tokens: int) -> list[Any]:
    return [event async for event in engine.submit(Request("r", tuple(ids), max_tokens))]


def test_prompts_that_do_not_fit_are_refused(backend: TransformersBackend) -> None:
    engine = ContinuousEngine(backend, [], SMALL)

    async def use() -> None:
        with pytest.raises(DataError, match="prompt is empty"):
            await answer(engine, [], 4)
        with pytest.raises(DataError, match="takes 256 in all"):  # as many as the cache holds
            await answer(engine, random_ids(250), 7)
        assert len(await answer(engine, random_ids(250), 6)) == 8
        with pytest.raises(DataError, match="0 tokens"):
            await engine.classify([[]])

    run(engine, use)


@pytest.mark.parametrize(
    "sizes", [{"page_tokens": 3}, {"cache_tokens": 0}, {"max_requests": -1}], ids=str
)
def test_sizes_that_are_too_small_are_refused(sizes: dict[str, int]) -> None:
    (name,) = sizes
    with pytest.raises(ConfigError, match=f"{name} is .*; it must be"):
        PagedSettings(**sizes)


def test_only_a_model_of_transformers_can_be_served() -> None:
    with pytest.raises(ConfigError, match="serve that one with PlainEngine"):
        ContinuousEngine(FakeBackend())


def test_probes_of_one_name_and_one_that_belongs_elsewhere_are_refused(
    backend: TransformersBackend,
) -> None:
    twice = [make_artefact("p", backend.identity), make_artefact("p", backend.identity, seed=1)]
    with pytest.raises(ConfigError, match="names must differ"):
        ContinuousEngine(backend, twice, SMALL)

    attention = backend.model.config._attn_implementation
    assert (hooks_of(backend.model), attention) == (0, "sdpa")
    probe, stranger = twice[0], make_artefact("s", FakeBackend().identity)
    engine = ContinuousEngine(backend, [probe], SMALL)

    async def use() -> None:
        with pytest.raises(MismatchError):
            await engine.set_probes([stranger])
        with pytest.raises(ConfigError, match="names must differ"):
            await engine.set_probes(twice)
        assert dict(engine.probes) == {"p": probe}
        assert (await answer(engine, [1, 2, 3], 2))[0].verdicts

    run(engine, use)


def test_an_engine_that_is_closed_ends_what_is_in_flight_and_leaves_the_model_as_it_was(
    backend: TransformersBackend,
) -> None:
    hooks, attention = hooks_of(backend.model), backend.model.config._attn_implementation
    engine = ContinuousEngine(backend, [make_artefact("p", backend.identity)], SMALL)
    assert hooks_of(backend.model) > hooks

    async def use() -> None:
        await engine.start()
        events = engine.submit(Request("r", (1, 2, 3), 200))
        await anext(events)
        await engine.close()
        with pytest.raises(RunError, match="shutting down"):
            async for _ in events:
                pass
        with pytest.raises(RunError):
            await answer(engine, [1, 2, 3], 2)
        with pytest.raises(RunError):
            await engine.classify([[1, 2]])

    with pytest.raises(ConfigError, match="served by another engine"):
        ContinuousEngine(backend, [], SMALL)
    asyncio.run(use())
    assert hooks_of(backend.model) == hooks
    assert backend.model.config._attn_implementation == attention


def test_an_answer_ends_at_the_models_end_token(backend: TransformersBackend) -> None:
    ids = random_ids(9, seed=4)
    free = run(e := ContinuousEngine(backend, [], SMALL), lambda: answer(e, ids, 12))
    tokens = [event.token_id for event in free if isinstance(event, TokenEvent)]
    end = next(token for token in tokens if token != tokens[0])
    backend.end_ids = frozenset([end])
    probe = make_artefact("p", backend.identity)
    ended = run(e2 := ContinuousEngine(backend, [probe], SMALL), lambda: answer(e2, ids, 12))

    place = tokens.index(end)
    assert [t.token_id for t in ended if isinstance(t, TokenEvent)] == tokens[:place]
    assert isinstance(ended[-1], Finished) and ended[-1].reason == "stop"
    assert isinstance(free[-1], Finished) and free[-1].reason == "length"
    assert "p" in ended[-1].verdicts


def test_the_memory_of_probes_is_told(backend: TransformersBackend) -> None:
    bare = ContinuousEngine(backend, [], SMALL)
    assert bare.probe_bytes == 0
    asyncio.run(bare.close())
    gate = ContinuousEngine(backend, [make_artefact("p", backend.identity)], SMALL)
    assert 0 < gate.probe_bytes < 1_000_000
    asyncio.run(gate.close())


def test_a_request_that_comes_while_probes_are_swapped_is_read(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the old probes, which were dropped before it was known to: it had no verdict."""
    one, two = (make_artefact(name, backend.identity) for name in ("one", "two"))
    engine: Any = ContinuousEngine(backend, [one], SMALL)
    swaps = list[threading.Thread]()

    def slow(*facts: Any) -> RunningRequest:
        new = {"two": two}, engine._new_reading([two])
        swaps.append(swap := threading.Thread(target=engine._replace, args=new))
        swap.start()
        swap.join(0.3)
        return RunningRequest(*facts)

    async def use() -> list[Any]:
        monkeypatch.setattr(continuous_engine, "RunningRequest", slow)
        got = await answer(engine, [1, 2, 3], 4)
        swaps[0].join()
        return got

    first, *_, last = run(engine, use)
    assert set(first.verdicts) == set(last.verdicts) == {"one"}
    assert set(engine.probes) == {"two"}


def test_a_grammar_is_made_beside_the_event_loop(backend: TransformersBackend) -> None:
    """It was made once more on the loop, whose streams waited for whatever was being compiled."""
    engine: Any = ContinuousEngine(backend, [], SMALL)
    threads = list[int]()

    class Free(Matcher):
        def __init__(self) -> None: ...

        def bar(self, logits: Tensor) -> Tensor:
            return logits

        def take(self, token: int) -> None: ...

    def make(_: str) -> Any:
        threads.append(threading.get_ident())
        return Free()

    backend.matcher = make  # type: ignore[method-assign]

    async def use() -> list[Any]:
        return [event async for event in engine.submit(Request("r", (1, 2), 3, grammar="g"))]

    assert len(run(engine, use)) == 5
    assert threads and threading.get_ident() not in threads
