"""The plainest engine: its verdicts are those of the language model, whatever else is in flight."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pillion.backends import Backend
from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.core import Turn
from pillion.errors import ConfigError, DataError, MismatchError, RunError
from pillion.runtime import (
    Finished,
    LanguageModel,
    PlainEngine,
    PromptRead,
    Request,
    Sampling,
    TokenEvent,
)
from tiny_models import distance, make_artefact, probs_of, tiny_backend

PROMPTS = ("A short one.", "b", "A much longer one, of many more words than the others.")


def backend_of(kind: str) -> Backend:
    if kind == "fake":
        return FakeBackend()
    return tiny_backend()


@pytest.fixture(params=["fake", "llama"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_of(request.param)


async def run(engine: PlainEngine, text: str, max_tokens: int = 12, **facts: Any) -> list[Any]:
    ids = tuple(engine.codec.encode(text, "chat"))
    request = Request(f"{text}-{facts}", ids, max_tokens, **facts)
    return [event async for event in engine.submit(request)]


def test_requests_in_flight_together_get_the_verdicts_of_texts_alone(backend: Backend) -> None:
    probe = make_artefact("p", backend.identity)
    engine, lm = PlainEngine(backend, [probe]), LanguageModel(backend)

    async def together() -> list[list[Any]]:
        return await asyncio.gather(*(run(engine, text) for text in PROMPTS))

    for text, (first, *tokens, last) in zip(PROMPTS, asyncio.run(together()), strict=True):
        assert isinstance(first, PromptRead) and isinstance(last, Finished)
        (wanted,) = lm.score([text], [probe], "chat")
        assert distance(probs_of(first.verdicts["p"], probe), probs_of(wanted["p"], probe)) < 1e-5

        alone = lm.generate(text, [probe], max_tokens=12)
        assert "".join(event.text for event in tokens) == alone.text
        assert tuple(event.token_id for event in tokens) == alone.token_ids
        assert last.reason == alone.finish_reason
        assert tokens[0].verdicts == {}
        got, want = (probs_of(v["p"], probe) for v in (last.verdicts, alone.response))
        assert distance(got, want) < 1e-5
    assert engine.stats().running == engine.stats().waiting == 0
    assert engine.stats().generated_tokens > 0 and engine.stats().probe_seconds > 0


def test_a_request_that_is_given_up_leaves_nothing_behind(backend: Backend) -> None:
    engine = PlainEngine(backend, [make_artefact("p", backend.identity)])

    async def give_up() -> None:
        events = engine.submit(Request("r", tuple(engine.codec.encode("hi", "chat")), 30))
        await anext(events)
        assert engine.stats().running == 1
        await events.aclose()
        assert engine.stats().running == 0
        assert len(await run(engine, "hello")) > 2

    asyncio.run(give_up())


def test_texts_are_classified_by_the_probes_that_are_named(backend: Backend) -> None:
    probes = [make_artefact(name, backend.identity, seed=i) for i, name in enumerate("pq")]
    engine, lm = PlainEngine(backend, probes), LanguageModel(backend)
    rows = [engine.codec.encode(text, "raw") for text in PROMPTS]

    every = asyncio.run(engine.classify(rows))
    for got, want in zip(every, lm.score(PROMPTS, probes, "raw"), strict=True):
        for probe in probes:
            one, two = (probs_of(v[probe.name], probe) for v in (got, want))
            assert distance(one, two) < 1e-5
    assert [list(row) for row in asyncio.run(engine.classify(rows, ["q"]))] == [["q"]] * 3
    assert asyncio.run(engine.classify(rows, [])) == [{}] * 3
    with pytest.raises(ConfigError, match="Unknown probe 'r'; known: p, q"):
        asyncio.run(engine.classify(rows, ["r"]))
    with pytest.raises(DataError, match="0 tokens"):
        asyncio.run(engine.classify([[]]))


def test_probes_are_swapped_for_requests_that_come_later() -> None:
    backend = FakeBackend()
    old, new = (make_artefact(name, backend.identity) for name in ("old", "new"))
    engine = PlainEngine(backend, [old])

    async def swap() -> tuple[Any, Any]:
        events = engine.submit(Request("r", tuple(engine.codec.encode("hi", "chat")), 4))
        await anext(events)
        await engine.set_probes([new])
        rest = [event async for event in events]
        return rest[-1], (await run(engine, "hi"))[0]

    before, after = asyncio.run(swap())
    assert list(before.verdicts) == ["old"] and list(after.verdicts) == ["new"]
    stranger = make_artefact("s", FakeBackend(seed=1).identity)
    with pytest.raises(MismatchError):
        asyncio.run(engine.set_probes([stranger]))
    assert list(engine.probes) == ["new"]


def test_logprobs_are_of_the_model_and_best_first(backend: Backend) -> None:
    engine = PlainEngine(backend)
    _, *tokens, _ = asyncio.run(run(engine, "hello", 6, top_logprobs=3))
    assert tokens
    for event in tokens:
        assert isinstance(event, TokenEvent) and event.logprob is not None
        values = [value for _, value in event.top_logprobs]
        assert values == sorted(values, reverse=True) and len(values) == 3
        # Without a temperature the likeliest token is taken.
        assert event.top_logprobs[0] == (event.token_id, event.logprob)
        assert event.logprob <= 0


def test_prompts_that_do_not_fit_are_refused(backend: Backend) -> None:
    engine = PlainEngine(backend)
    with pytest.raises(DataError, match="prompt is empty"):
        asyncio.run(anext(engine.submit(Request("r", (), 4))))
    with pytest.raises(DataError, match="in all; shorten the prompt"):
        asyncio.run(anext(engine.submit(Request("r", (1,) * 500, 500))))
    assert engine.stats().waiting == 0


def test_an_engine_that_is_closed_ends_what_is_in_flight() -> None:
    engine = PlainEngine(FakeBackend())

    async def closing() -> None:
        await engine.start()
        events = engine.submit(Request("r", (1, 2, 3), 9, Sampling(seed=1)))
        await anext(events)
        await engine.close()
        with pytest.raises(RunError, match="shutting down"):
            await anext(events)

    asyncio.run(closing())


def test_a_conversation_of_one_turn_is_a_text_in_the_chat_template(backend: Backend) -> None:
    assert backend.encode_chat((Turn("user", "hello"),)) == backend.encode("hello", "chat")


def test_a_conversation_that_the_template_refuses_is_an_error() -> None:
    backend = backend_of("llama")
    assert isinstance(backend, TransformersBackend)
    backend.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ConfigError, match="roles must alternate"):
        backend.encode_chat((Turn("user", "hello"),))
