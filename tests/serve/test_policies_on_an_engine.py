"""Policies and held tokens on a real engine over a socket: continuous batching, greedy answers."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from client import COMPLETE, MODEL, listening, settings

from pillion.backends.paged import PagedSettings
from pillion.runtime import ContinuousEngine
from pillion.serve import Settings, make_policies
from tiny_models import make_artefact, random_ids, tiny_backend

PAGES = PagedSettings(page_tokens=4, cache_tokens=512, max_chunk_tokens=16, max_requests=4)
PROMPT = random_ids(21, seed=3)
MAX_TOKENS = 10
SLACK = 1e-4


def engine() -> ContinuousEngine:
    backend = tiny_backend()
    return ContinuousEngine(backend, [make_artefact("p", backend.identity)], PAGES)


def asked(url: str, max_tokens: int = MAX_TOKENS) -> tuple[list[Any], str]:
    """The chunks of an answer, and its text."""
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0}
    answer = httpx.post(url + COMPLETE, json=body | {"stream": True}, timeout=60)
    assert answer.status_code == 200, answer.text
    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    return chunks, "".join(c["text"] for chunk in chunks for c in chunk["choices"])


def scores(chunks: list[Any]) -> dict[int, float]:
    """The running score after each number of tokens that was read."""
    told = [chunk["verdicts"] for chunk in chunks if chunk.get("verdicts", {}).get("response")]
    return {one["response_tokens"]: one["response"]["p"]["probs"]["yes"] for one in told}


@pytest.fixture(scope="module")
def plain() -> Generator[tuple[list[Any], list[str]]]:
    """An answer that no policy stops: its chunks, and its text after each number of tokens."""
    with listening(engine(), settings()) as url:
        chunks, _ = asked(url)
        texts = [asked(url, count)[1] for count in range(1, MAX_TOKENS + 1)]
    yield chunks, ["", *texts]


def policed(**facts: Any) -> Settings:
    policy = {"probe": "p", "fail": "closed", **facts}
    return settings(policies=make_policies({"policies": [policy]}))


def crossing(found: dict[int, float]) -> tuple[int, float]:
    """A number of tokens, not the first, whose score tops all before it; a line between them."""
    counts = sorted(found)
    for place, count in list(enumerate(counts))[2:]:
        below = max(found[one] for one in counts[:place])
        if found[count] > below + 2 * SLACK:
            return count, (found[count] + below) / 2
    pytest.fail(f"no score rises: {found}")


@pytest.mark.parametrize("hold_back", [0, 1, 3])
def test_an_answer_is_stopped_where_its_score_crosses_and_held_tokens_are_not_said(
    plain: tuple[list[Any], list[str]], hold_back: int
) -> None:
    chunks, texts = plain
    count, line = crossing(scores(chunks))
    chosen = policed(action="stop", threshold=line, hold_back=hold_back)
    with listening(engine(), chosen) as url:
        stopped, text = asked(url)
    assert text == texts[max(count - hold_back, 0)]
    last = stopped[-1]
    assert last["choices"][0]["finish_reason"] == "content_filter"
    assert last["verdicts"]["response"]["p"]["decision"] == "stop"
    got = last["verdicts"]["response"]["p"]["probs"]["yes"]
    assert got == pytest.approx(scores(chunks)[count], abs=SLACK)


@pytest.mark.parametrize("hold_back", [0, 2])
def test_an_answer_below_the_line_is_said_whole(
    plain: tuple[list[Any], list[str]], hold_back: int
) -> None:
    chunks, texts = plain
    line = max(scores(chunks).values()) + (1 - max(scores(chunks).values())) / 2
    with listening(engine(), policed(action="stop", threshold=line, hold_back=hold_back)) as url:
        whole, text = asked(url)
    assert text == texts[MAX_TOKENS]
    assert whole[-1]["choices"][0]["finish_reason"] == "length"


def test_a_prompt_is_blocked_by_its_own_score_and_the_engine_goes_on(
    plain: tuple[list[Any], list[str]],
) -> None:
    chunks, texts = plain
    score = chunks[0]["verdicts"]["prompt"]["p"]["probs"]["yes"]
    chosen = policed(action="block", threshold=score - SLACK, refusal="No.")
    with listening(engine(), chosen) as url:
        blocked, text = asked(url)
        assert text == "No."
        assert blocked[-1]["choices"][0]["finish_reason"] == "content_filter"
        assert httpx.get(url + "/ready", timeout=30).status_code == 200
    with listening(engine(), policed(action="block", threshold=score + SLACK)) as url:
        assert asked(url)[1] == texts[MAX_TOKENS]
