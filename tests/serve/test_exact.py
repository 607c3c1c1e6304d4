"""Verdicts over HTTP under load, on continuous batching: those of the texts alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from client import CHAT, MODEL, listening, settings

from pillion.backends.paged import PagedSettings
from pillion.runtime import ContinuousEngine, Generation, LanguageModel
from tiny_models import make_artefact, tiny_backend

SHARED = "Everybody begins with the same words, so that their pages are shared. "
PROMPTS = [
    SHARED * (1 + i % 3) + f"Number {i} goes on {'by itself ' * (i % 5)}." for i in range(24)
]
MAX_TOKENS = 12


def body(text: str, **facts: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": turns, "max_tokens": MAX_TOKENS, "temperature": 0, **facts}


async def whole(client: httpx.AsyncClient, text: str) -> tuple[Any, str]:
    answer = await client.post(CHAT, json=body(text))
    assert answer.status_code == 200, answer.text
    got = answer.json()
    return got, got["choices"][0]["message"]["content"]


async def streamed(client: httpx.AsyncClient, text: str) -> tuple[Any, str]:
    said, usage = "", {"include_usage": True}
    got: dict[str, Any] = {}
    async with client.stream(
        "POST", CHAT, json=body(text, stream=True, stream_options=usage)
    ) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            got |= {k: v for k, v in chunk.items() if v is not None}
            said += "".join(c["delta"].get("content") or "" for c in chunk["choices"])
    return got, said


async def given_up(client: httpx.AsyncClient, text: str) -> None:
    """Asks, and hangs up after a few chunks."""
    async with client.stream("POST", CHAT, json=body(text, stream=True)) as answer:
        async for _ in answer.aiter_lines():
            break


async def load(url: str) -> list[tuple[Any, str]]:
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await whole(client, SHARED * 3)  # leaves pages that others begin with
        wanted = [(whole, streamed)[i % 2](client, text) for i, text in enumerate(PROMPTS)]
        strangers = [given_up(client, text + " No.") for text in PROMPTS[::4]]
        got = await asyncio.gather(*wanted, *strangers)
    return [one for one in got if one is not None]


@pytest.fixture(scope="module")
def alone() -> dict[str, Generation]:
    """Every prompt by itself, by the plain computation."""
    backend = tiny_backend()
    lm = LanguageModel(backend)
    probes = [make_artefact(name, backend.identity, task=task) for name, task in PROBES.items()]
    return {text: lm.generate(text, probes, MAX_TOKENS) for text in PROMPTS}


PROBES = {"p": "binary", "q": "multiclass"}


def test_verdicts_under_load_are_those_of_every_text_alone(alone: dict[str, Generation]) -> None:
    backend = tiny_backend()
    probes = [make_artefact(name, backend.identity, task=task) for name, task in PROBES.items()]
    sizes = PagedSettings(page_tokens=16, cache_tokens=2048, max_chunk_tokens=64, max_requests=8)
    with listening(ContinuousEngine(backend, probes, sizes), settings()) as url:
        got = asyncio.run(load(url))
        idle = httpx.get(url + "/metrics").text

    assert len(got) == len(PROMPTS)
    hits = 0
    for text, (answer, said) in zip(PROMPTS, got, strict=True):
        hits += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert said == alone[text].text
        for part, wanted in (("prompt", alone[text].prompt), ("response", alone[text].response)):
            for name in PROBES:
                probs = answer["verdicts"][part][name]["probs"]
                assert probs == pytest.approx(dict(wanted[name].probs), abs=1e-4)
    assert hits > 0, "no prefix was shared: nothing was tested"
    # A verdict that went to another caller would show: they all differ.
    assert len({json.dumps(answer["verdicts"]["prompt"]) for answer, _ in got}) == len(PROMPTS)
    assert "pillion_running 0.0" in idle
