"""Policies, upstreams and judges for tests of what is made of verdicts."""

from __future__ import annotations

import json
from typing import Any

import httpx
from client import settings

from pillion.serve import Settings, make_policies

WORDS = ("one ", "two ", "three ", "four ", "five ")
RISING = (0.1, 0.2, 0.9, 0.95, 0.99)
"""Scores after each word: the third crosses the line."""

JUDGES = {"big": {"url": "http://judge/v1", "model": "j"}}
UPSTREAMS = {"careful": {"url": "http://up/v1/", "model": "large"}}


def policies(*some: dict[str, Any], **facts: Any) -> Settings:
    full = [{"probe": "p", **one} for one in some]
    content = {"policies": full, "judges": JUDGES, "upstreams": UPSTREAMS}
    return settings(policies=make_policies(content), **facts)


BLOCK = {"action": "block", "fail": "closed", "refusal": "No."}
STOP = {"action": "stop", "fail": "closed"}
ROUTE = {"action": "route", "fail": "open", "upstream": "careful"}
ESCALATE = {"action": "escalate", "fail": "closed", "judge": "big", "band": [0.4, 0.6]}


def judge(says: str | int, seen: list[Any] | None = None) -> httpx.MockTransport:
    """A judge that says a word, or answers with a status."""

    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(json.loads(request.content))
        if isinstance(says, int):
            return httpx.Response(says)
        return httpx.Response(200, json={"choices": [{"message": {"content": says}}]})

    return httpx.MockTransport(handle)
