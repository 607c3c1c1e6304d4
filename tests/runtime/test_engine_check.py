"""Canaries of many probes cost as many passes as their texts, not as their probes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from pillion.backends.fake import FakeBackend
from pillion.core import Event, Scope
from pillion.errors import MismatchError
from pillion.probe import Artefact
from pillion.probe.canaries import NUM_CANARIES
from pillion.runtime import (
    LanguageModel,
    PlainEngine,
    Request,
    check_canaries,
    check_engine,
    with_canaries,
)
from tiny_models import make_artefact


class Counting(PlainEngine):
    """Notes what it is asked to read."""

    def __init__(self, probes: Sequence[Artefact]) -> None:
        super().__init__(FakeBackend(), probes)
        self.prompts: list[tuple[int, ...]] = []
        self.texts: list[Sequence[int]] = []

    async def submit(self, request: Request) -> AsyncGenerator[Event]:
        self.prompts.append(request.token_ids)
        async for event in super().submit(request):
            yield event

    async def _classify(
        self, rows: Sequence[Sequence[int]], artefacts: Sequence[Artefact], owner: str
    ) -> list[dict[str, Any]]:
        self.texts.extend(rows)
        return await super()._classify(rows, artefacts, owner)


def trained(name: str, scope: Scope, seed: int) -> Artefact:
    model = LanguageModel(FakeBackend())
    probe = make_artefact(name, model.backend.identity, scope=scope, template="chat", seed=seed)
    (kept,) = with_canaries(model, [probe])
    return kept


def checked(probes: Sequence[Artefact]) -> tuple[Counting, list[Any]]:
    engine = Counting(probes)

    async def use() -> list[Any]:
        try:
            return await asyncio.wait_for(check_engine(engine), 60)
        finally:
            await engine.close()

    return engine, asyncio.run(use())


def test_probes_of_one_scope_are_checked_in_the_passes_of_one() -> None:
    """A server with three probes ran the same eight texts three times before its first request."""
    probes = [trained(f"p{seed}", "last-user", seed) for seed in range(3)]
    engine, found = checked(probes)

    assert len(engine.prompts) == NUM_CANARIES and engine.texts == []
    assert [one.probe for one in found] == ["p0", "p1", "p2"]
    assert all(one.difference < 1e-4 < one.tolerance for one in found)


def test_probes_of_several_scopes_read_each_text_once() -> None:
    scopes: list[Scope] = ["last-user", "user", "system", "response", "assistant"]
    probes = [trained(scope, scope, seed) for seed, scope in enumerate(scopes)]
    engine, found = checked([*probes, make_artefact("plain", FakeBackend().identity)])

    assert len(set(engine.prompts)) == len(engine.prompts) < 3 * NUM_CANARIES
    assert len(set(map(tuple, engine.texts))) == len(engine.texts) == NUM_CANARIES
    assert [one.probe for one in found] == [*scopes, "plain"]
    assert found[-1].note is not None
    assert all(one.difference < 1e-4 for one in found[:-1])


def test_the_probe_that_says_something_else_is_named_among_others() -> None:
    good, other = trained("good", "last-user", 0), trained("other", "last-user", 1)
    bad = Artefact("bad", good.card, other.network)
    with pytest.raises(MismatchError, match="'bad' does not say here"):
        checked([good, bad, other])


def test_a_model_reads_the_canaries_of_probes_that_share_them_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = LanguageModel(FakeBackend())
    scopes: list[Scope] = ["last-user", "last-user", "response", "last-user"]
    probes = [trained(f"p{seed}", scope, seed) for seed, scope in enumerate(scopes)]
    probes.insert(1, make_artefact("plain", model.backend.identity))
    passes: list[int] = []
    score_rows = model.score_rows

    def counting(rows: Any, own: Any, **facts: Any) -> Any:
        passes.append(len(own))
        return score_rows(rows, own, **facts)

    monkeypatch.setattr(model, "score_rows", counting)
    found = check_canaries(model, probes)

    assert passes == [3, 1]
    assert [one.probe for one in found] == ["p0", "plain", "p1", "p2", "p3"]
    assert [one.note is None for one in found] == [True, False, True, True, True]
