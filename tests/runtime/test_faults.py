"""A step that fails ends who made it fail; the others get the tokens that they get alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from pillion.backends.transformers import TransformersBackend
from pillion.errors import RunError
from pillion.runtime import ContinuousEngine, PagedSettings, Request, Sampling, TokenEvent
from tiny_models import make_artefact, random_ids, tiny_backend

SMALL = PagedSettings(page_tokens=4, cache_tokens=512, max_chunk_tokens=64, max_requests=8)
BAD = 95


@pytest.fixture
def backend() -> TransformersBackend:
    return tiny_backend()


def poison(backend: TransformersBackend) -> None:
    """From now on a pass with the bad token raises, whatever else is in it."""

    def refuse(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        if bool((args[0] == BAD).any()):
            raise ValueError("a poisoned token")

    backend.model.get_input_embeddings().register_forward_pre_hook(refuse)


async def answer(engine: ContinuousEngine, ids: list[int], **facts: Any) -> list[Any]:
    request = Request("r", tuple(ids), 12, **facts)
    return [event async for event in engine.submit(request)]


def tokens(events: list[Any]) -> list[int]:
    return [event.token_id for event in events if isinstance(event, TokenEvent)]


def good_prompts(backend: TransformersBackend, count: int = 4) -> tuple[list[Any], list[Any]]:
    """Prompts whose answers hold no bad token, and what they are alone."""

    async def alone(engine: ContinuousEngine, rows: list[Any]) -> list[Any]:
        await engine.start()
        try:
            return [await answer(engine, row) for row in rows]
        finally:
            await engine.close()

    rows = [[t % BAD for t in random_ids(30 + i, seed=i)] for i in range(3 * count)]
    probe = make_artefact("p", backend.identity)
    found = asyncio.run(alone(ContinuousEngine(backend, [probe], SMALL), rows))
    kept = [i for i, events in enumerate(found) if BAD not in tokens(events)][:count]
    return [rows[i] for i in kept], [found[i] for i in kept]


def same(got: list[Any], wanted: list[Any]) -> bool:
    def numbers(events: list[Any]) -> list[float]:
        return [v.probs["yes"] for e in events for v in e.verdicts.values()]

    return tokens(got) == tokens(wanted) and numbers(got) == pytest.approx(
        numbers(wanted), abs=1e-4
    )


def test_a_pass_that_fails_ends_the_request_that_made_it_fail_and_no_other(
    backend: TransformersBackend,
) -> None:
    """An error in a step ended every request in flight, and the engine."""
    rows, wanted = good_prompts(backend)
    poison(backend)
    engine = ContinuousEngine(backend, [make_artefact("p", backend.identity)], SMALL)

    async def use() -> list[Any]:
        await engine.start()
        try:
            running = [asyncio.ensure_future(answer(engine, row)) for row in rows]
            while not engine.stats().generated_tokens:
                await asyncio.sleep(0.001)
            bad = [answer(engine, [1, 2, BAD]), answer(engine, [BAD] * 40)]
            got = await asyncio.gather(*running, *bad, return_exceptions=True)
            assert engine.failure is None
            return got
        finally:
            await engine.close()

    *got, one, two = asyncio.run(use())
    for error in (one, two):
        assert isinstance(error, RunError) and "a poisoned token" in str(error)
    assert all(same(events, want) for events, want in zip(got, wanted, strict=True))


def test_a_draw_that_fails_ends_its_own_request_only(backend: TransformersBackend) -> None:
    rows, wanted = good_prompts(backend, 2)
    engine = ContinuousEngine(backend, [make_artefact("p", backend.identity)], SMALL)
    engine_request = engine._engine_request  # type: ignore[reportPrivateUsage]

    def broken(request: Request, matcher: Any) -> Any:
        made = engine_request(request, matcher)
        if request.sampling.temperature > 0:
            object.__setattr__(made, "draw", lambda logits: logits[5, 0])
        return made

    engine._engine_request = broken  # type: ignore[method-assign]

    async def use() -> list[Any]:
        await engine.start()
        try:
            bad = answer(engine, rows[0], sampling=Sampling(1.0))
            return await asyncio.gather(
                *(answer(engine, row) for row in rows), bad, return_exceptions=True
            )
        finally:
            await engine.close()

    *got, error = asyncio.run(use())
    assert isinstance(error, RunError) and "no token could be drawn" in str(error)
    assert all(same(events, want) for events, want in zip(got, wanted, strict=True))


def test_a_request_whose_draw_fails_takes_no_further_step(backend: TransformersBackend) -> None:
    """Its client had the error, and it ran on to its limit, in slots that others waited for."""
    engine = ContinuousEngine(backend, [make_artefact("p", backend.identity)], SMALL)
    engine_request = engine._engine_request  # type: ignore[reportPrivateUsage]

    def broken(request: Request, matcher: Any) -> Any:
        made = engine_request(request, matcher)
        object.__setattr__(made, "draw", lambda logits: logits[5, 0])
        return made

    engine._engine_request = broken  # type: ignore[method-assign]

    async def use() -> None:
        await engine.start()
        try:
            with pytest.raises(RunError, match="no token could be drawn"):
                async for _ in engine.submit(Request("r", (1, 2, 3), 400)):
                    pass
            while engine.stats().running:
                await asyncio.sleep(0.001)
            manager: Any = engine._batching._manager  # type: ignore[reportPrivateUsage]
            assert manager.current_batch < 20
        finally:
            await engine.close()

    asyncio.run(use())


def test_a_request_that_is_tried_alone_gets_the_room_that_it_needs(
    backend: TransformersBackend,
) -> None:
    """Others held their pages and could not go on: nobody got a token any more."""
    rows = [random_ids(100, seed=0), random_ids(100, seed=1), [7] * 400]
    engine = ContinuousEngine(backend, [make_artefact("p", backend.identity)], SMALL)
    failed = list[bool]()

    def fail_once(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        if not failed and bool((args[0].flatten()[-30:] == 7).all()):
            failed.append(True)
            raise MemoryError("for a moment")

    async def use() -> list[list[Any]]:
        await engine.start()
        try:
            alone = [await answer(engine, row) for row in rows]
            backend.model.get_input_embeddings().register_forward_pre_hook(fail_once)
            before = engine.stats().generated_tokens
            running = [asyncio.ensure_future(answer(engine, row)) for row in rows[:2]]
            while engine.stats().generated_tokens == before:
                await asyncio.sleep(0.001)
            async with asyncio.timeout(60):
                got = await asyncio.gather(*running, answer(engine, rows[2]))
            assert failed and all(same(one, two) for one, two in zip(got, alone, strict=True))
            return got
        finally:
            await engine.close()

    asyncio.run(use())


def test_what_cannot_be_read_exactly_ends_and_the_next_request_is_answered(
    backend: TransformersBackend,
) -> None:
    rows, wanted = good_prompts(backend, 2)
    engine = ContinuousEngine(backend, [make_artefact("p", backend.identity)], SMALL)
    (reading,) = engine._readings  # type: ignore[reportPrivateUsage]
    end = reading.end

    def once() -> None:
        reading.end = end  # type: ignore[method-assign]
        raise ValueError("half of it was taken in")

    async def use() -> list[Any]:
        await engine.start()
        try:
            reading.end = once  # type: ignore[method-assign]
            (failed,) = await asyncio.gather(answer(engine, rows[0]), return_exceptions=True)
            assert isinstance(failed, RunError) and "half of it" in str(failed)
            return [await answer(engine, row) for row in rows]
        finally:
            await engine.close()

    assert all(same(got, want) for got, want in zip(asyncio.run(use()), wanted, strict=True))


def test_an_engine_that_is_lost_says_so_and_can_be_rebuilt(backend: TransformersBackend) -> None:
    rows, wanted = good_prompts(backend, 2)
    engine = ContinuousEngine(backend, [make_artefact("p", backend.identity)], SMALL)

    def broken() -> None:
        raise RuntimeError("the device is gone")

    async def use() -> list[Any]:
        await engine.start()
        try:
            poison(backend)
            batching = engine._batching  # type: ignore[reportPrivateUsage]
            trial, batching._faults.trial = batching._faults.trial, broken
            with pytest.raises(RunError):
                await answer(engine, [BAD])
            while engine.failure is None:
                await asyncio.sleep(0.01)
            assert "the device is gone" in engine.failure
            with pytest.raises(RunError, match="has stopped"):
                await answer(engine, [1, 2, 3])
            batching._faults.trial = trial
            await engine.rebuild()
            assert engine.failure is None
            return [await answer(engine, row) for row in rows]
        finally:
            await engine.close()

    assert all(same(got, want) for got, want in zip(asyncio.run(use()), wanted, strict=True))


def test_probes_that_nobody_reads_any_more_are_freed_on_an_idle_engine(
    backend: TransformersBackend,
) -> None:
    """Every swap on an idle server left the memory of the probe that was replaced."""
    engine = ContinuousEngine(backend, [make_artefact("p", backend.identity)], SMALL)

    async def use() -> None:
        await engine.start()
        try:
            one = engine.probe_bytes
            for seed in range(3):
                await engine.set_probes([make_artefact("p", backend.identity, seed=seed)])
                assert engine.probe_bytes == one
            events = engine.submit(Request("r", (1, 2, 3), 200))
            await anext(events)
            await engine.set_probes([make_artefact("p", backend.identity, seed=9)])
            assert engine.probe_bytes > one  # who began with the old one is read with it
            await events.aclose()
            for _ in range(500):
                if len(engine._readings) == 1:  # type: ignore[reportPrivateUsage]
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("the old probe is still there")
        finally:
            await engine.close()

    asyncio.run(use())
