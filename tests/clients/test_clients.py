"""What people ask with, installed from the registries, asks `pillion serve` over HTTP.

The programs under `programs/` ask and print what their client made of the answers. A text with the
word that the probe was trained on is unsafe, others are safe.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from environments import asked

pytestmark = pytest.mark.clients

SAID = "It rains in Paris today."
CALL = {"name": "weather", "args": {"city": "Paris"}}
UNSAFE, SAFE = "unsafe;p=1;part=prompt", "safe;p=1;part=prompt"


def check_trip(trip: Any, **kinds: Any) -> None:
    """An object of the schema that programs ask for."""
    assert list(trip) == ["city", *kinds] and trip["city"] in {"Paris", "Rome"}
    assert all(type(trip[name]) is kind for name, kind in kinds.items())


def check_verdicts(verdicts: Any) -> None:
    """Of an answer to a text with the word."""
    assert verdicts["prompt"]["safety"]["label"] == "unsafe"
    assert verdicts["prompt"]["safety"]["probs"]["unsafe"] > 0.9
    assert verdicts["response"]["answer"]["label"] in {"safe", "unsafe"}
    assert verdicts["response_tokens"] > 0


def test_openai_for_python(served: str) -> None:
    got = asked("openai", served)
    assert got["whole"] == SAID and got["header"] == UNSAFE
    check_verdicts(got["verdicts"])
    check_trip(got["parsed"], days=int)
    assert got["streamed"] == ["tool_calls", "Weather"] and got["city"] == "Paris"
    assert {"chunk", "tool_calls.function.arguments.done"} <= set(got["kinds"])
    said, verdicts = got["response"]
    assert said == SAID
    check_verdicts(verdicts)
    check_trip(got["made"], days=int)
    assert got["last"] == "response.completed" and got["flagged"] == [False, True]


def test_openai_for_node(served: str) -> None:
    got = asked("openai_node", served)
    assert got["whole"] == SAID and got["header"] == UNSAFE
    check_verdicts(got["verdicts"])
    assert got["gathered"]["finish_reason"] == "tool_calls"
    (call,) = got["gathered"]["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert got["ran"] == SAID and got["turns"] == ["user", "assistant", "tool", "assistant"]
    said, verdicts = got["response"]
    assert said == SAID
    check_verdicts(verdicts)
    assert got["events"][0] == "response.created" and got["events"][-1] == "response.completed"
    assert got["flagged"] == [False, True]


def test_the_ai_sdk(served: str) -> None:
    got = asked("ai_sdk", served)
    for way in ("responses", "chats"):
        one = got[way]
        check_trip(one["object"], days=int, far=bool)
        assert (one["text"], one["reason"], one["usage"]) == (SAID, "stop", 5)
        assert one["header"] == UNSAFE
        assert one["steps"] == one["streamed"] == one["both"] == ["tool-calls", "stop"]
        assert one["results"] == [
            {"toolName": "weather", "input": {"city": "Paris"}, "output": "Rain in Paris."}
        ]
        assert one["said"] == "".join(one["words"]) == SAID and len(one["words"]) > 3
        check_trip(one["formed"], days=int, far=bool)


def test_langchain(served: str) -> None:
    got = asked("langchain", served)
    for way, reasons in (("chats", ("tool_calls", "stop")), ("responses", ("completed",) * 2)):
        one = got[way]
        called, answer = one["called"], one["answer"]
        assert called["calls"] == one["streamed"]["calls"] == [CALL]
        assert answer["text"] == "".join(one["words"]) == SAID and not answer["calls"]
        assert (called["reason"], answer["reason"]) == reasons
        assert one["streamed"]["reason"] == reasons[0]
        assert answer["usage"]["output_tokens"] == 5
        assert answer["headers"]["x-pillion-verdict-safety"] == UNSAFE
        assert "part=response" in answer["headers"]["x-pillion-verdict-answer"]
        assert one["agent"] == [*one["both"], SAID] == ["human", "ai", "tool", "ai", SAID]
        for trip in (one["formed"], *one["made"].values()):
            check_trip(trip, days=int, by_train=bool)
        assert set(one["made"]) == {"json_schema", "function_calling", "strict"}
    assert isinstance(got["json"], dict)


def test_instructor(served: str) -> None:
    got = asked("instructor", served)
    check_trip(got.pop("partial"), days=int, stops=list)
    assert set(got) == {"TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS"}
    for one in got.values():
        assert one["class"] == "Trip"
        check_trip(one["trip"], days=int, stops=list)
        check_verdicts(one["verdicts"])


def test_the_agents_sdk(served: str) -> None:
    got = asked("agents_sdk", served)
    turns = ["tool_call_item", "tool_call_output_item", "message_output_item"]
    for way in ("responses", "chats"):
        one = got[way]
        assert one["whole"] == one["streamed"] == SAID
        assert one["items"] == one["both"] == turns and one["requests"] == 2
        assert {"raw_response_event", "run_item_stream_event"} <= set(one["kinds"])
        assert one["trip"][0] == "Trip"
        for trip in (one["trip"][1], one["made"]):
            check_trip(trip, days=int)
    assert set(got["asked"]) == {"Paris"} and len(got["asked"]) == 6
    # Of whole answers; the first question has the word.
    assert got["headers"] == [UNSAFE, UNSAFE, SAFE, SAFE, SAFE] * 2


def test_nemo_guardrails(served: str) -> None:
    """Its rail `hf_classifier` with the engine `vllm` asks `POST /classify`."""
    got = asked("nemo", served)
    passed, blocked = got["harmless"], got["harmful"]
    assert passed["answer"] == SAID and passed["calls"] == 1
    assert [(kind, stop) for kind, _, stop in passed["rails"]] == [
        ("input", False),
        ("generation", False),
        ("output", False),
    ]
    assert "can't respond" in blocked["answer"] and blocked["calls"] == 0
    ((kind, name, stop),) = blocked["rails"]
    assert kind == "input" and "hf classifier" in name and stop is True


def test_litellm(served: str) -> None:
    got = asked("litellm", served)
    assert got["whole"] == got["streamed"] == SAID and got["end"] == "stop"
    check_verdicts(got["verdicts"])
    assert got["headers"]["llm_provider-x-pillion-verdict-safety"] == UNSAFE
    assert got["reason"] == "tool_calls"
    assert got["call"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    check_trip(json.loads(got["made"]))
    assert got["flagged"] == got["again"] == got["categories"] == [False, True]
