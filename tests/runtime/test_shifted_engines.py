"""Penalties, bias and grammars in engines: each request's own, the same in any, put back or not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from chat_templates import VOCAB, chat_tokenizer
from pillion.backends.grammar import json_rule
from pillion.backends.transformers import TransformersBackend
from pillion.core import TokenEvent
from pillion.runtime import ContinuousEngine, Engine, PagedSettings, PlainEngine, Request, Sampling
from tiny_models import random_ids, tiny_model

SCHEMA = {"type": "array", "items": {"enum": ["one", "two", 3]}, "minItems": 5, "maxItems": 6}
GRAMMAR = f"start: {json_rule(SCHEMA)}\n"

WAYS = [
    Sampling(),
    Sampling(frequency_penalty=1.5, presence_penalty=-0.5),
    Sampling(repetition_penalty=1.6),
    Sampling(logit_bias=((5, 4.0), (7, -100.0)), frequency_penalty=0.2),
    Sampling(1.0, min_p=0.02, presence_penalty=2.0, seed=4),
    Sampling(1.0, seed=5),
    Sampling(0.7, seed=6, frequency_penalty=2.0),
]
"""The last two have a form too."""


def requests() -> list[Request]:
    return [
        Request(
            str(n), tuple(random_ids(12, n)), 40, how, grammar=GRAMMAR if n > len(WAYS) - 3 else ""
        )
        for n, how in enumerate(WAYS)
    ]


async def said(engine: Engine, at_once: bool) -> tuple[list[list[int]], int]:
    async def answer(request: Request) -> list[int]:
        events: list[Any] = [event async for event in engine.submit(request)]
        return [event.token_id for event in events if isinstance(event, TokenEvent)]

    await engine.start()
    try:
        if at_once:
            found = await asyncio.gather(*map(answer, requests()))
        else:
            found = [await answer(request) for request in requests()]
        return list(found), engine.stats().preemptions
    finally:
        await engine.close()


def test_every_request_is_drawn_in_its_own_way_whatever_is_beside_it_and_put_back() -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.eos_token = "<|im_end|>"
    backend = TransformersBackend(tiny_model(vocab=VOCAB), tokenizer, "tiny")
    alone, _ = asyncio.run(said(PlainEngine(backend), at_once=False))
    assert len({tuple(one) for one in alone}) == len(alone)
    for tokens in alone[-2:]:
        assert set(json.loads(backend.decode(tokens))) <= {"one", "two", 3}
    for cache_tokens, least in ((2048, 0), (160, 1)):
        sizes = PagedSettings(4, cache_tokens, max_chunk_tokens=24, max_requests=8)
        together, preemptions = asyncio.run(said(ContinuousEngine(backend, (), sizes), True))
        assert preemptions >= least
        assert together == alone
