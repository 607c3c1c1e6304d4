"""What policies do to conversations in `vllm serve`, on every route: refusals, and ends."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from riding import ProbedModel
from serving import serving

from pillion.core import Turn
from tiny_models import full_states, offline

pytestmark = pytest.mark.vllm
WORDS = ("My balance, please! " * 6, "Something else, said in other words")
REFUSAL = "Not this."
READ_TOKENS = 3
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")


@pytest.fixture(scope="module")
def served(
    chat: ProbedModel, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[str, str]]:
    """A server's address, and the words that it refuses; all answers are ended early."""
    folder = tmp_path_factory.mktemp("policies")
    (probe,) = (one for one in chat.probes if one.name == "gate-user")
    scores: dict[str, float] = {}
    for words in WORDS:
        row = chat.backend.encode_chat((Turn("user", words),))
        states = full_states(chat.backend, row)
        scores[words] = offline(probe, states, row.ranges("user")).item()
    line = sum(scores.values()) / 2
    block = {"probe": probe.name, "action": "block", "threshold": line, "fail": "open"}
    stop = {"probe": "gate-response", "action": "stop", "threshold": 0.0, "fail": "closed"}
    policies = [block | {"refusal": REFUSAL}, stop | {"after_tokens": READ_TOKENS}]
    path = Path(folder / "policy.json")
    path.write_text(json.dumps({"policies": policies}))
    tools: dict[str, Any] = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    with serving(chat, folder, path, **tools) as address:
        yield address, max(scores, key=lambda words: scores[words])


def post(address: str, path: str, words: str, **others: Any) -> httpx.Response:
    said = [{"role": "user", "content": words}]
    is_response = path == "/v1/responses"
    asked: dict[str, Any] = {"input" if is_response else "messages": said}
    asked |= {"max_output_tokens" if is_response else "max_tokens": 20}
    body = {"model": "tiny", "temperature": 0} | asked | others
    return httpx.post(address + path, json=body, timeout=300)


def told(body: dict[str, Any]) -> tuple[str, str]:
    """Text of a body, and why it ended."""
    if "choices" in body:
        (choice,) = body["choices"]
        return choice["message"]["content"], choice["finish_reason"]
    if body.get("object") == "response":
        text = "".join(c["text"] for item in body["output"] for c in item["content"])
        return text, (body["incomplete_details"] or {"reason": body["status"]})["reason"]
    return "".join(part["text"] for part in body["content"]), body["stop_reason"]


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


ENDS = dict(zip(PATHS, ("content_filter", "content_filter", "refusal"), strict=True))


@pytest.mark.parametrize("path", PATHS)
def test_a_refusal_is_said_as_each_route_says_it(served: tuple[str, str], path: str) -> None:
    address, refused = served
    body = post(address, path, refused).raise_for_status().json()
    assert told(body) == (REFUSAL, ENDS[path])
    assert body["verdicts"]["prompt"]["gate-user"]["decision"] == "block"
    (other,) = set(WORDS) - {refused}
    ended = post(address, path, other).raise_for_status().json()
    text, why = told(ended)
    assert why == ENDS[path] and len(text) <= READ_TOKENS - 1 and text != REFUSAL
    assert ended["verdicts"]["response"]["gate-response"]["decision"] == "stop"
    assert ended["verdicts"]["response_tokens"] == READ_TOKENS


@pytest.mark.parametrize("path", PATHS)
def test_streams_end_for_the_same_reason(served: tuple[str, str], path: str) -> None:
    address, refused = served
    for words in WORDS:
        whole = post(address, path, words).json()
        streamed = events(post(address, path, words, stream=True))
        if path == PATHS[0]:
            choices = [choice for event in streamed for choice in event["choices"]]
            text = "".join(choice["delta"].get("content") or "" for choice in choices)
            (why,) = (c["finish_reason"] for c in choices if c["finish_reason"])
        elif path == PATHS[1]:
            (last,) = (e["response"] for e in streamed if e["type"] == "response.incomplete")
            text, why = told(last)
            deltas = [e["delta"] for e in streamed if e["type"] == "response.output_text.delta"]
            assert "".join(deltas) == text
        else:
            deltas = [e["delta"] for e in streamed if e["type"] == "content_block_delta"]
            text = "".join(delta["text"] for delta in deltas)
            (why,) = (e["delta"]["stop_reason"] for e in streamed if e["type"] == "message_delta")
        assert (text, why) == told(whole)
        assert (text == REFUSAL) is (words == refused)


def test_a_refusal_is_text_also_where_a_tool_had_to_be_called(served: tuple[str, str]) -> None:
    address, refused = served
    tool = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}
    for choice in ("required", {"type": "function", "function": {"name": "pay"}}):
        for stream in (False, True):
            others: dict[str, Any] = {"tools": [tool], "tool_choice": choice, "stream": stream}
            answer = post(address, PATHS[0], refused, **others)
            assert answer.status_code == 200, answer.text
            if stream:
                choices = [c for event in events(answer) for c in event["choices"]]
                said = [c["delta"] for c in choices]
                assert [d["content"] for d in said if d.get("content")] == [REFUSAL]
                assert not any(d.get("tool_calls") for d in said)
            else:
                assert told(answer.json()) == (REFUSAL, "content_filter")


def test_several_conversations_are_refused_one_by_one(served: tuple[str, str]) -> None:
    address, refused = served
    talks = [[{"role": "user", "content": words}] for words in WORDS]
    body = {"model": "tiny", "messages": talks, "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{address}/v1/chat/completions/batch", json=body, timeout=300)
    texts = [c["message"]["content"] for c in answer.raise_for_status().json()["choices"]]
    assert [text == REFUSAL for text in texts] == [words == refused for words in WORDS]


def test_classifying_a_text_is_not_answering_it(served: tuple[str, str]) -> None:
    address, refused = served
    body = {"model": "gate-user", "messages": [{"role": "user", "content": refused}]}
    answer = httpx.post(f"{address}/classify", json=body, timeout=300).raise_for_status()
    assert len(answer.json()["data"]) == 1
