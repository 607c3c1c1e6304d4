"""What hostile clients send, for the soak: each must be answered with what is written here.

Numbers that once ended the engine, bodies that once held up the server, work that once stopped
every stream.
"""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
Attack = tuple[str, bytes, Set[int]]
"""Path, body, and the statuses that are fine."""
MANY = 200_000
TURN = {"role": "user", "content": "x"}
LONG = "The quick brown fox jumps over the lazy dog, and then it goes on for some more words. " * 5


def _attack(path: str, body: dict[str, Any], *statuses: int) -> Attack:
    return path, json.dumps({"model": "m", **body}).encode(), {*statuses, 429}


def numbers() -> list[Attack]:
    """Numbers at the edge of what there is."""
    turns = {"messages": [TURN], "max_tokens": 4}
    return [
        *(_attack(COMPLETE, {"prompt": [one]}, 400) for one in (10**9, 2**70, -1)),
        *(_attack(CHAT, {**turns, "temperature": t}, 200) for t in (1e-300, 5e-324)),
        *(_attack(CHAT, {**turns, "top_p": p}, 200) for p in (1e-300, 5e-324)),
        _attack(CHAT, {**turns, "logprobs": True, "top_logprobs": 20}, 200),
        _attack(CHAT, {**turns, "seed": -(2**63)}, 200),
        _attack(CHAT, {**turns, "max_tokens": 2**63}, 400),
    ]


def bodies() -> list[Attack]:
    """Bodies of many keys, messages, tokens or characters."""
    turns = {"messages": [TURN]}
    return [
        _attack(CHAT, {**turns, **{f"k{i}": i for i in range(2 * MANY)}}, 400),
        _attack(CHAT, {"messages": [{}] * MANY}, 400),
        _attack(CHAT, {"messages": [TURN] * MANY}, 400, 413),
        _attack(COMPLETE, {"prompt": [1] * 5 * MANY}, 400),
        _attack(CHAT, {"messages": [TURN | {"content": "word " * MANY}]}, 400),
        _attack(CHAT, {"messages": [TURN | {"content": "\\" * MANY}]}, 400),
    ]


def work() -> list[Attack]:
    """More to read than a step takes."""
    return [
        _attack("/v1/classify", {"input": [f"{i} {LONG}"[:355] for i in range(60)]}, 200, 504),
        _attack("/v1/explain", {"input": LONG, "probe": "steady"}, 200, 504),
    ]


ATTACKS = {"numbers": numbers(), "bodies": bodies(), "work": work()}
