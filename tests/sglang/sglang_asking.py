"""Clients of SGLang's server: conversations and prompts that are asked together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from pillion.core import Conversation, Tokens

LETTERS = {str(number): 100.0 for number in range(64, 90)}
"""Answers of one letter a token, so that they are the same tokens as words of a conversation."""


class Answer(NamedTuple):
    """What came of a request.

    Attributes:
        ids: of the answer.
        verdicts: of it, with logits.
        cached_tokens: of the prompt, from the cache.
        retractions: how often it was put back.
        body: all of it.
    """

    ids: list[int]
    verdicts: dict[str, Any]
    cached_tokens: int
    retractions: int
    body: dict[str, Any]


def chat_request(turns: Conversation, max_tokens: int, **others: Any) -> dict[str, Any]:
    """A body for `/v1/chat/completions`."""
    messages: list[dict[str, str]] = []
    for turn in turns:
        call = {"tool_call_id": "0"} if turn.role == "tool" else {}
        messages.append({"role": turn.role, "content": turn.content, **call})
    return {
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "logit_bias": LETTERS,
        "return_meta_info": True,
        "return_token_ids": True,
        "pillion": {"logits": True},
        **others,
    }


def raw_request(ids: Sequence[int], max_tokens: int, **others: Any) -> dict[str, Any]:
    """A body for `/generate`."""
    params = {"max_new_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    return {
        "input_ids": list(ids),
        "sampling_params": params,
        "pillion": {"logits": True},
        **others,
    }


def ask(address: str, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """Answers to all of them, asked at once."""

    async def every() -> list[Answer]:
        import httpx

        async with httpx.AsyncClient(base_url=address, timeout=300) as session:
            return await asyncio.gather(*(_ask(session, body) for body in bodies))

    return asyncio.run(every())


async def _ask(session: Any, body: dict[str, Any]) -> Answer:
    is_chat = "messages" in body
    path = "/v1/chat/completions" if is_chat else "/generate"
    got = await session.post(path, json=body)
    assert got.status_code == 200, got.text
    found = got.json()
    if is_chat:
        (choice,) = found["choices"]
        ids, meta, verdicts = choice["response_token_ids"], choice["meta_info"], found["verdicts"]
    else:
        ids, meta = found["output_ids"], found["meta_info"]
        verdicts = meta["verdicts"]
    return Answer(ids, verdicts, meta["cached_tokens"], meta["num_retractions"], found)


def grown(encode: Any, turns: Conversation, answer: str, more: Conversation) -> tuple[Any, Tokens]:
    """A conversation that goes on from its answer: its turns and its tokens."""
    from pillion.core import Turn

    later = (*turns, Turn("assistant", answer), *more)
    return later, encode(later)
