"""The law of reasoning: of an answer with reasoning, probes read what is behind it.

A probe of answers gives the same verdict of a generated answer in `LanguageModel.generate`, in the
engines, and offline of the row that holds it; reading the reasoning too must differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from chat_templates import chat_backend
from pillion.backends.transformers import TransformersBackend
from pillion.core import Segment, Tokens, Turn
from pillion.probe import Artefact
from pillion.runtime import (
    ContinuousEngine,
    Engine,
    Finished,
    LanguageModel,
    PagedSettings,
    PlainEngine,
    Request,
)
from tiny_models import DEVICE, distance, make_artefact, probs_of

LIMIT = 2e-5
ASKED = (Turn("user", "2 + 2?"),)
ANSWER = "<think>\nTwo, two.\n</think>\n\nIt is four."
"""As the model will say it; the last token of an answer that ends at its limit is never read."""


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    """A model that says `ANSWER` when it is asked."""
    made = chat_backend("qwen3")
    row = made.encode_chat((*ASKED, Turn("assistant", ANSWER)))
    begin = len(made.encode_chat(ASKED))
    ids = torch.tensor([row], device=DEVICE)
    optimizer = torch.optim.Adam(made.model.parameters(), lr=0.01)
    for _ in range(200):
        logits = made.model(input_ids=ids, use_cache=False).logits[0, begin - 1 : -1]
        if torch.equal(logits.argmax(-1), ids[0, begin:]):
            break
        loss = torch.nn.functional.cross_entropy(logits, ids[0, begin:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    else:
        pytest.fail("the model did not learn its answer")
    return TransformersBackend(made.model.requires_grad_(False), made.tokenizer, "tiny")


@pytest.fixture(scope="module")
def probe(backend: TransformersBackend) -> Artefact:
    return make_artefact("p", backend.identity, template="chat", scope="response")


@pytest.fixture(scope="module")
def row(backend: TransformersBackend) -> Tokens:
    """What a probe of the generated answer has read, as a row."""
    return backend.encode_chat((*ASKED, Turn("assistant", ANSWER[:-1])))


def num_tokens(backend: TransformersBackend) -> int:
    whole = backend.encode_chat((*ASKED, Turn("assistant", ANSWER)))
    return len(whole) - len(backend.encode_chat(ASKED))


def served(engine: Engine, prompt: Tokens, rows: Sequence[Tokens], max_tokens: int) -> Any:
    """The events of an answer, and the verdicts of classified rows."""

    async def run() -> Any:
        await engine.start()
        try:
            request = Request("a", prompt, max_tokens)
            events = [event async for event in engine.submit(request)]
            return events, await engine.classify(rows)
        finally:
            await engine.close()

    return asyncio.run(run())


def test_the_answer_of_the_test_has_reasoning(backend: TransformersBackend, row: Tokens) -> None:
    assert backend.reasoning_ids is not None
    assert all(mark in row for mark in backend.reasoning_ids)
    assert {s.kind for s in row.segments if s.role == "assistant"} == {"reasoning", "content"}


def test_a_generated_answer_gets_the_verdict_of_its_row(
    backend: TransformersBackend, probe: Artefact, row: Tokens
) -> None:
    model = LanguageModel(backend)
    prompt, count = backend.encode_chat(ASKED), num_tokens(backend)
    (offline,) = model.score_rows([row], [probe])
    wanted = probs_of(offline["p"], probe)
    answer = model.generate(ASKED, [probe], max_tokens=count)
    assert (*prompt, *answer.token_ids)[:-1] == row
    found = [answer.response["p"]]
    sizes = PagedSettings(8, 512, max_chunk_tokens=16, max_requests=4)
    for engine in (PlainEngine(backend, [probe]), ContinuousEngine(backend, [probe], sizes)):
        (*_, last), (classified,) = served(engine, prompt, [row], count)
        assert isinstance(last, Finished)
        found += [last.verdicts["p"], classified["p"]]
    for verdict in found:
        assert distance(probs_of(verdict, probe), wanted) < LIMIT


def test_reading_the_reasoning_too_differs(
    backend: TransformersBackend, probe: Artefact, row: Tokens
) -> None:
    """The control: a reading that knew nothing of reasoning would be seen."""
    begin = len(backend.encode_chat(ASKED))
    told = [s for s in row.segments if s.role != "assistant"]
    unaware = Tokens(row, [*told, Segment(begin, len(row), "assistant", 1)])
    right, wrong = LanguageModel(backend).score_rows([row, unaware], [probe])
    assert distance(probs_of(right["p"], probe), probs_of(wrong["p"], probe)) > 100 * LIMIT


def test_an_answer_that_is_still_reasoning_has_no_verdict(
    backend: TransformersBackend, probe: Artefact
) -> None:
    unfinished = ANSWER[: ANSWER.index("</think>") - 2]
    row = backend.encode_chat((*ASKED, Turn("assistant", unfinished)))
    answer = LanguageModel(backend).generate(
        ASKED, [probe], max_tokens=len(row) - len(backend.encode_chat(ASKED)) + 1
    )
    assert answer.response == LanguageModel(backend).score_rows([row], [probe])[0] == {}


def test_marks_that_the_tokenizer_does_not_know_are_words(probe: Artefact) -> None:
    """Such an answer was read whole while it was generated, and without its reasoning offline."""
    other = chat_backend()
    assert other.reasoning_ids is None
    row = other.encode_chat((*ASKED, Turn("assistant", ANSWER)))
    assert [range(len(other.encode_chat(ASKED)), len(row))] == list(row.ranges("response"))
