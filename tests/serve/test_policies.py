"""Policies at work: blocked prompts, stopped streams, other servers, judges, dry runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from client import CHAT, COMPLETE, application, ask, chat, refusal, streamed, text_of
from made_policies import BLOCK, ESCALATE, RISING, ROUTE, STOP, WORDS, judge, policies
from scripted import ScriptedEngine

from pillion.errors import ConfigError

# --- block


def test_a_blocked_prompt_gets_a_refusal_before_the_first_token() -> None:
    engine = ScriptedEngine(prompt_score=0.9)
    with application(engine, policies(BLOCK)) as client:
        body, chunks = ask(client, n=2), streamed(client)
        done = client.post(COMPLETE, json={"model": "m", "prompt": "hello"}).json()
    for choice in body["choices"]:
        assert choice["message"]["content"] == "No."
        assert choice["finish_reason"] == "content_filter"
    assert body["usage"]["completion_tokens"] == 0
    assert body["verdicts"]["prompt"]["p"]["decision"] == "block"
    assert text_of(chunks) == "No."
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert done["choices"][0]["text"] == "No."
    # The engine was let go at once, and asked only once for both choices.
    assert len(engine.submitted) == 3 and len(engine.closed) == 3


def test_an_innocent_prompt_is_answered() -> None:
    with application(ScriptedEngine(prompt_score=0.1), policies(BLOCK)) as client:
        body = ask(client)
    assert body["choices"][0]["message"]["content"] == "".join(WORDS)
    assert body["verdicts"]["prompt"]["p"]["decision"] == "allow"


@pytest.mark.parametrize(("fail", "reason"), [("closed", "content_filter"), ("open", "stop")])
def test_without_a_verdict_a_policy_fails_as_stated(fail: str, reason: str) -> None:
    with application(ScriptedEngine(prompt_score=None), policies(BLOCK | {"fail": fail})) as client:
        assert ask(client)["choices"][0]["finish_reason"] == reason


# --- stop


@pytest.mark.parametrize(
    ("hold_back", "text"),
    [(0, "one two three "), (1, "one two "), (2, "one "), (3, ""), (9, "")],
)
def test_a_stopped_answer_has_said_nothing_of_the_tokens_held_back(
    hold_back: int, text: str
) -> None:
    engine = ScriptedEngine(scores=RISING)
    with application(engine, policies(STOP | {"hold_back": hold_back})) as client:
        body, chunks = ask(client), streamed(client)
    assert body["choices"][0]["message"]["content"] == text_of(chunks) == text
    for end in (body, chunks[-1]):
        assert end["choices"][0]["finish_reason"] == "content_filter"
        assert end["verdicts"]["response"]["p"]["decision"] == "stop"
        assert end["verdicts"]["response"]["p"]["probs"]["yes"] == 0.9
        assert end["verdicts"]["response_tokens"] == 3
    assert engine.closed == [request.id for request in engine.submitted]


@pytest.mark.parametrize("hold_back", [0, 1, 3, 9])
@pytest.mark.parametrize("max_tokens", [2, 5, 9])
def test_holding_back_changes_nothing_of_an_innocent_answer(
    hold_back: int, max_tokens: int
) -> None:
    with application(ScriptedEngine(), policies(STOP | {"hold_back": hold_back})) as client:
        body, chunks = ask(client, max_tokens=max_tokens), streamed(client, max_tokens=max_tokens)
    text = "".join(WORDS[:max_tokens])
    assert body["choices"][0]["message"]["content"] == text_of(chunks) == text
    reason = "stop" if max_tokens > 5 else "length"
    assert body["choices"][0]["finish_reason"] == reason
    assert body["usage"]["completion_tokens"] == min(5, max_tokens)


def test_the_last_token_is_read_before_it_is_sent() -> None:
    """It ends the answer, so no step of the answer's own would read it."""
    crossing_at_the_end = (0.1, 0.1, 0.9)
    engine = ScriptedEngine(words=(*WORDS[:3], "extra "), scores=crossing_at_the_end)
    with application(engine, policies(STOP)) as client:
        body = ask(client, max_tokens=3)
    assert body["choices"][0]["message"]["content"] == "one two "
    assert body["choices"][0]["finish_reason"] == "content_filter"
    assert engine.submitted[0].max_tokens == 4


@pytest.mark.parametrize(("fail", "text"), [("open", "ab"), ("closed", "a")])
def test_where_the_context_ends_an_unread_token_fails_as_stated(fail: str, text: str) -> None:
    engine = ScriptedEngine(words=("a", "b"))
    with application(engine, policies(STOP | {"fail": fail})) as client:
        ids = [1] * (engine.identity.context_tokens - 2)
        body = {"model": "m", "prompt": ids, "max_tokens": 2}
        engine.words = ("a", "b", *["c"] * 600)
        done = client.post(COMPLETE, json=body).json()
    assert done["choices"][0]["text"] == text


def test_a_stop_string_is_not_overruled_by_what_would_have_come_after_it() -> None:
    with application(ScriptedEngine(scores=RISING), policies(STOP | {"hold_back": 5})) as client:
        body = ask(client, stop="two")
    assert body["choices"][0]["message"]["content"] == "one "
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["verdicts"]["response"]["p"]["probs"]["yes"] == 0.2
    assert body["verdicts"]["response_tokens"] == 2


def test_a_policy_may_wait_for_some_tokens() -> None:
    late = STOP | {"after_tokens": 2, "hold_back": 1}
    with application(ScriptedEngine(scores=(0.9, 0.1, 0.1)), policies(late)) as client:
        assert ask(client)["choices"][0]["finish_reason"] == "stop"


# --- escalate


@pytest.mark.parametrize(
    ("says", "fail", "blocked"),
    [
        ("Yes.", "open", True),
        ("no", "closed", False),
        ("perhaps", "closed", True),
        ("perhaps", "open", False),
        (500, "closed", True),
        (500, "open", False),
    ],
)
def test_a_judge_decides_inside_the_band(says: Any, fail: str, blocked: bool) -> None:
    seen: list[Any] = []
    chosen = policies(ESCALATE | {"fail": fail})
    with application(ScriptedEngine(prompt_score=0.5), chosen, judge(says, seen)) as client:
        body = ask(client, text="Is it?")
    assert (body["choices"][0]["finish_reason"] == "content_filter") is blocked
    assert body["verdicts"]["prompt"]["p"]["decision"] == ("block" if blocked else "allow")
    (question,) = seen
    assert question["model"] == "j" and question["temperature"] == 0
    assert "'yes'" in question["messages"][0]["content"]
    assert question["messages"][1]["content"] == "user: Is it?"


def test_outside_the_band_nobody_is_asked() -> None:
    seen: list[Any] = []
    for score in (0.39, 0.6):
        engine = ScriptedEngine(prompt_score=score)
        with application(engine, policies(ESCALATE), judge("yes", seen)) as client:
            assert ask(client)["choices"][0]["finish_reason"] == "stop"
    assert seen == []


@pytest.mark.parametrize(("says", "text"), [("yes", "one "), ("no", "".join(WORDS))])
def test_a_judge_is_asked_once_about_an_answer_on_its_way(says: str, text: str) -> None:
    seen: list[Any] = []
    engine = ScriptedEngine(scores=(0.1, 0.5, 0.5, 0.5, 0.5))
    chosen = policies(ESCALATE | {"on": "response"})
    with application(engine, chosen, judge(says, seen)) as client:
        assert text_of(streamed(client)) == text
    assert [one["messages"][1]["content"] for one in seen] == ["one two "]


# --- route


def upstream(handle: Callable[[httpx.Request], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(handle)


ANSWER = {"id": "up", "object": "chat.completion", "choices": [], "usage": None}


def test_another_server_answers_with_our_verdicts() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=ANSWER)

    engine = ScriptedEngine(prompt_score=0.9)
    with application(engine, policies(ROUTE), upstream(handle)) as client:
        body = ask(client, temperature=0.5)
    assert body["id"] == "up" and body["verdicts"]["prompt"]["p"]["decision"] == "route"
    (request,) = seen
    assert str(request.url) == "http://up/v1/chat/completions"
    assert json.loads(request.content) == chat(temperature=0.5) | {"model": "large"}
    assert len(engine.closed) == 1


def test_another_server_streams_behind_our_verdicts() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        lines = ['data: {"choices": [{"index": 0, "delta": {"content": "hi"}}]}', "data: [DONE]"]
        return httpx.Response(200, text="\n\n".join(lines))

    with application(ScriptedEngine(prompt_score=0.9), policies(ROUTE), upstream(handle)) as client:
        first, second = streamed(client)
    assert first["verdicts"]["prompt"]["p"]["decision"] == "route"
    assert text_of([second]) == "hi"


def test_an_upstreams_stream_that_breaks_off_is_told_as_an_error() -> None:
    """It ended as if it were complete."""
    line = 'data: {"choices": [{"index": 0, "delta": {"content": "hi"}}]}'
    broken = upstream(lambda _: httpx.Response(200, text=f"{line}\n\n"))
    with application(ScriptedEngine(prompt_score=0.9), policies(ROUTE), broken) as client:
        _, said, error = streamed(client)
    assert text_of([said]) == "hi"
    assert error["error"]["code"] == "upstream_failed" and "broke off" in error["error"]["message"]


@pytest.mark.parametrize("closed", [STOP, ESCALATE | {"on": "response"}], ids=["stop", "escalate"])
def test_answers_that_must_be_read_are_not_left_to_another_server(closed: Any) -> None:
    """A route let an answer out unread although a policy on responses failed closed."""
    with pytest.raises(ConfigError, match="no probe can read the answers of the upstreams"):
        policies(ROUTE, closed | {"fail": "closed"})
    policies(ROUTE, closed | {"fail": "open"})


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_fails_fails_as_stated(stream: bool) -> None:
    broken = upstream(lambda _: httpx.Response(500))
    engine = ScriptedEngine(prompt_score=0.9)
    with application(engine, policies(ROUTE | {"fail": "closed"}), broken) as client:
        error = refusal(client, CHAT, chat(stream=stream), 502)
        assert error["code"] == "upstream_failed" and "status 500" in error["message"]
    with application(engine, policies(ROUTE), broken) as client:
        text = text_of(streamed(client)) if stream else ask(client)["choices"][0]["message"]
        assert text == "".join(WORDS) or text["content"] == "".join(WORDS)  # type: ignore[index]
    # Two prompts, and the answer that ours had to give after all.
    assert len(engine.closed) == len(engine.submitted) == 3


# --- dry run


def test_a_dry_run_only_writes_down_what_it_would_have_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pillion.serve")
    unsure = ESCALATE | {"on": "response"}
    chosen = policies(BLOCK, unsure, STOP | {"hold_back": 9}, dry_run=True)
    engine = ScriptedEngine(prompt_score=0.9, scores=(0.5, 0.9))
    with application(engine, chosen, judge(500)) as client:
        body = ask(client)
        assert 'pillion_policy_actions_total{action="block",dry_run="true",probe="p"} 1.0' in (
            client.get("/metrics").text
        )
    assert body["choices"][0]["message"]["content"] == "".join(WORDS)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["verdicts"]["dry_run"] is True
    assert body["verdicts"]["prompt"]["p"]["decision"] == "block"
    told = [r.facts for r in caplog.records if r.message == "policy"]  # type: ignore[attr-defined]
    assert [one["action"] for one in told] == ["block", "escalate", "stop"]
    assert all(one["dry_run"] for one in told)


def test_what_is_held_back_of_a_stop_string_goes_with_the_unread_token() -> None:
    """The token that no probe could read began a stop string: its letters came out at the end."""
    engine = ScriptedEngine(words=("a", "STO"))
    with application(engine, policies(STOP)) as client:
        ids = [1] * (engine.identity.context_tokens - 2)
        body = {"model": "m", "prompt": ids, "max_tokens": 2, "stop": ["STOP"]}
        engine.words = ("a", "STO", *["c"] * 600)
        done = client.post(COMPLETE, json=body).json()
    assert done["choices"][0]["text"] == "a"
