"""Beside any request, two good streams are answered exactly, and the request gets no 5xx."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from client import CHAT, COMPLETE, MODEL, chat, listening
from client import settings as served
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.backends.paged import PagedSettings
from pillion.runtime import ContinuousEngine, LanguageModel
from pillion.serve import Limits
from tiny_models import VOCAB, make_artefact, tiny_backend

SIZES = PagedSettings(page_tokens=4, cache_tokens=1024, max_chunk_tokens=32, max_requests=4)
GOOD = ("a stream that goes on and on", "another one, which is longer than the first")
TOKENS = 12


class Neighbours:
    """Two clients that stream the same answers again and again, and compare.

    Attributes:
        answers: how many came whole.
        faults: what was not as it is alone.
    """

    def __init__(self, url: str, wanted: dict[str, tuple[str, float]]) -> None:
        self.url, self.wanted, self.over = url, wanted, False
        self.answers, self.faults = 0, list[str]()

    def run(self) -> None:
        async def both() -> None:
            async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
                await asyncio.gather(*(self._again(client, text) for text in GOOD))

        asyncio.run(both())

    async def _again(self, client: httpx.AsyncClient, text: str) -> None:
        body = chat(text, max_tokens=TOKENS, temperature=0, stream=True)
        while not self.over:
            said, verdicts, done = "", dict[str, Any](), False
            async with client.stream("POST", CHAT, json=body) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        chunk = json.loads(line.removeprefix("data: "))
                        verdicts |= chunk.get("verdicts", {})
                        for choice in chunk.get("choices", ()):
                            said += choice["delta"].get("content") or ""
                    done |= line == "data: [DONE]"
            words, prob = self.wanted[text]
            got = verdicts.get("prompt", {}).get("p", {}).get("probs", {}).get("yes", -1)
            if not done or said != words or abs(got - prob) > 1e-4:
                self.faults.append(f"{answer.status_code} {said!r} {got}")
            self.answers += 1


@pytest.fixture(scope="module")
def beside() -> Generator[Neighbours]:
    backend = tiny_backend()
    probe = make_artefact("p", backend.identity)
    lm = LanguageModel(backend)
    alone = {text: lm.generate(text, [probe], TOKENS) for text in GOOD}
    wanted = {text: (one.text, one.prompt["p"].probs["yes"]) for text, one in alone.items()}
    limits = Limits(output_tokens=TOKENS)
    with listening(ContinuousEngine(backend, [probe], SIZES), served(limits=limits)) as url:
        neighbours = Neighbours(url, wanted)
        thread = threading.Thread(target=neighbours.run)
        thread.start()
        yield neighbours
        neighbours.over = True
        thread.join(60)


BIG = st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**40, 1e-300, 1e300, 5e-324])
NUMBERS = st.one_of(BIG, st.integers(), st.floats(), st.none(), st.booleans(), st.just("1"))
IDS = st.one_of(st.integers(-2, VOCAB + 2), st.integers(), BIG)
NEAR = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1, exclude_min=True),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "max_tokens": st.integers(1, 9),
    "n": st.integers(1, 3),
}
NEAR_CHAT = NEAR | {"logprobs": st.just(True), "top_logprobs": st.integers(0, 20)}
NEAR_COMPLETION = NEAR | {"logprobs": st.integers(0, 5)}
PROMPTS = st.one_of(
    st.lists(IDS, max_size=40),
    st.lists(st.lists(IDS, max_size=9), max_size=3),
    st.integers(1, 900).map(lambda count: [1] * count),
    st.text(max_size=20),
    st.lists(st.integers(0, VOCAB - 1), min_size=1),
)


def bodies(required: dict[str, Any], near: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Parameters of which one at most is wild, so that many get as far as the engine."""
    good = st.fixed_dictionaries(required, optional=near)
    names = [*near, *(["max_completion_tokens"] if "top_logprobs" in near else [])]
    wild = st.dictionaries(st.sampled_from(names), NUMBERS, max_size=1)
    return st.builds(lambda some, one: {**some, **one}, good, wild)


TURNS = st.just([{"role": "user", "content": "x"}])
CHATS = bodies({"model": st.just(MODEL), "messages": TURNS}, NEAR_CHAT)
COMPLETIONS = bodies({"model": st.just(MODEL), "prompt": PROMPTS}, NEAR_COMPLETION)


def drawn() -> list[tuple[str, dict[str, Any]]]:
    """Requests, drawn before any runs: the server beside would disturb hypothesis' random state."""
    found: list[tuple[str, dict[str, Any]]] = [
        (COMPLETE, {"model": MODEL, "prompt": [VOCAB]}),
        (CHAT, chat(temperature=1e-300, max_tokens=4)),
        (CHAT, chat(temperature=1, top_p=1e-300, max_tokens=4)),
        (CHAT, chat(logprobs=True, top_logprobs=20, max_tokens=4)),
    ]

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(st.one_of(st.tuples(st.just(CHAT), CHATS), st.tuples(st.just(COMPLETE), COMPLETIONS)))
    def take(request: tuple[str, dict[str, Any]]) -> None:
        found.append(request)

    take()
    return found


REQUESTS = drawn()


def test_no_number_in_a_request_harms_another(beside: Neighbours) -> None:
    """A token id beyond the vocabulary, a temperature of 1e-300 and a top_p of 1e-300 each ended
    the engine for everybody until a restart, and readiness did not tell."""
    statuses = Counter[int]()
    kind = {"Content-Type": "application/json"}
    with httpx.Client(base_url=beside.url, timeout=60, headers=kind) as client:
        for path, body in REQUESTS:
            answer = client.post(path, content=json.dumps(body))
            assert answer.status_code in {200, 400}, (body, answer.text)
            assert not beside.faults, body
            statuses[answer.status_code] += 1
        assert client.get("/ready").status_code == 200
    assert min(statuses.values()) > 10 and beside.answers > 4, (statuses, beside.answers)
