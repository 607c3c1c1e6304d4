"""Layers that wait for each other, as on an accelerator, some at a time: the same verdicts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from pillion.backends.transformers import TransformersBackend
from pillion.errors import StateError
from pillion.probe import Artefact
from pillion.runtime import (
    ContinuousEngine,
    Finished,
    PagedSettings,
    PromptRead,
    Request,
    TokenEvent,
    attach,
    held,
    watch,
)
from pillion.runtime.held import HeldLayers
from tiny_models import (
    DEVICE,
    DIM,
    all_artefacts,
    distance,
    full_states,
    make_artefact,
    offline,
    probs_of,
    random_ids,
    tiny_backend,
)

TOKENS = 40
STATE = TOKENS * DIM * 4  # bytes of a layer of the tiny model


@pytest.fixture
def backend() -> TransformersBackend:
    return tiny_backend()


@pytest.fixture
def every(backend: TransformersBackend) -> list[Artefact]:
    """Probes of every aggregator; some read other layers."""
    others = [make_artefact("some", backend.identity, layers=(1, 4), seed=8)]
    return [*all_artefacts(backend.identity), *others]


@pytest.fixture(params=[1, 2 * STATE, 2**26], ids=["one", "two", "all"])
def takes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Everything waits, until one, two or all layers are there; how many were taken each time."""
    monkeypatch.setattr(held, "HELD_BYTES", request.param)
    monkeypatch.setattr(HeldLayers, "holds", lambda *_: True)
    counted: list[int] = []
    take = HeldLayers.take

    def noted(self: HeldLayers) -> Any:
        found = take(self)
        counted.append(len(found[0]))
        return found

    monkeypatch.setattr(HeldLayers, "take", noted)
    return counted


def test_a_long_chunk_is_read_exactly_however_many_layers_wait(
    backend: TransformersBackend, every: list[Artefact], takes: list[int]
) -> None:
    ids = random_ids(TOKENS)
    with watch(backend, every) as reading:
        backend.forward(torch.tensor([ids]), torch.ones(1, TOKENS, dtype=torch.bool))
    states = full_states(backend, ids)

    assert takes in ([1] * 5, [2, 2, 1], [5])
    for artefact in every:
        got = reading.probabilities()[artefact.name][0]
        assert distance(got, offline(artefact, states)) < 1e-5, artefact.name
    # The negative control: a layer in another's place is clearly another result.
    states = states[[1, 0, *range(2, len(states))]]
    assert distance(reading.probabilities()["some"][0], offline(every[-1], states)) > 1e-4


@torch.no_grad()
def test_what_is_not_finite_is_named_after_the_pass(
    backend: TransformersBackend, every: list[Artefact], takes: list[int]
) -> None:
    def spoil(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[-1, 5] = torch.nan
        return output

    handle = backend.blocks[1].register_forward_hook(spoil)
    with attach(backend.model, every), pytest.raises(StateError, match=r"layer 2 .* at token 5"):
        backend.model(torch.tensor([random_ids(TOKENS)], device=DEVICE))
    handle.remove()


def test_an_engine_reads_exactly_however_many_layers_wait(
    backend: TransformersBackend, every: list[Artefact], takes: list[int]
) -> None:
    prompts = [random_ids(length, length) for length in (TOKENS, 9)]

    async def serve() -> list[list[Any]]:
        sizes = PagedSettings(page_tokens=4, cache_tokens=1024, max_chunk_tokens=64)
        engine = ContinuousEngine(backend, every, sizes)
        await engine.start()
        try:
            return await asyncio.gather(*(answer(engine, ids) for ids in prompts))
        finally:
            await engine.close()

    async def answer(engine: ContinuousEngine, ids: list[int]) -> list[Any]:
        return [event async for event in engine.submit(Request("r", tuple(ids), 5))]

    for ids, events in zip(prompts, asyncio.run(serve()), strict=True):
        first, *_, last = events
        assert isinstance(first, PromptRead) and isinstance(last, Finished)
        said = [event.token_id for event in events if isinstance(event, TokenEvent)]
        states = full_states(backend, [*ids, *said])
        for probe in every:
            wanted = offline(probe, states[:, : len(ids)])
            assert distance(probs_of(first.verdicts[probe.name], probe), wanted) < 1e-4, probe.name
    assert takes


def test_what_waits_is_full_once_it_is_as_large_as_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were it never full, every layer of a long prompt would lie in memory at once."""
    monkeypatch.setattr(held, "HELD_BYTES", 2 * STATE)
    waiting, state = HeldLayers(torch.device("cpu"), 4), torch.zeros(1, TOKENS, DIM)
    assert [waiting.add(layer, state) for layer in (3, 5)] == [False, True]
    assert waiting.num_bytes == 2 * STATE and waiting
    layers, states = waiting.take()
    assert layers == (3, 5) and states.shape == (2, 1, TOKENS, DIM)
    assert not waiting and waiting.num_bytes == 0
    assert waiting.holds(4) and not waiting.holds(5)


def test_no_more_layers_wait_in_a_pass_than_may(
    backend: TransformersBackend, every: list[Artefact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "HELD_BYTES", 2 * STATE)
    monkeypatch.setattr(HeldLayers, "holds", lambda *_: True)
    sizes, take = list[int](), HeldLayers.take

    def noted(self: HeldLayers) -> Any:
        sizes.append(self.num_bytes)
        return take(self)

    monkeypatch.setattr(HeldLayers, "take", noted)
    with torch.no_grad(), attach(backend.model, every):
        backend.model(torch.tensor([random_ids(TOKENS)], device=DEVICE))
    assert len(sizes) > 1 and max(sizes) <= 2 * STATE
