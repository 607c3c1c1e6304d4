"""Conversations over HTTP: a probe judges the turns of its scope, and says so where it cannot."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from client import CHAT, COMPLETE, MODEL, application, refusal, settings
from starlette.testclient import TestClient

from pillion.backends.fake import FakeBackend
from pillion.core import SCOPES, as_conversation
from pillion.errors import ConfigError
from pillion.runtime import LanguageModel, PlainEngine
from pillion.serve import make_policies
from tiny_models import make_artefact

CLASSIFY, MODERATE = "/v1/classify", "/v1/moderations"
TALK = [
    {"role": "system", "content": "You serve a bank."},
    {"role": "user", "content": "What do I have?"},
    {"role": "tool", "content": "17 euros", "tool_call_id": "call-1"},
    {"role": "user", "content": "More, please."},
]
ANSWERED = [*TALK, {"role": "assistant", "content": "I cannot."}]


def probes() -> list[Any]:
    identity = FakeBackend().identity
    return [make_artefact(s, identity, template="chat", scope=s) for s in SCOPES]


@pytest.fixture(scope="module")
def client() -> Generator[TestClient]:
    with application(PlainEngine(FakeBackend(), probes())) as running:
        yield running


def chat(client: TestClient, messages: list[Any], **facts: Any) -> Any:
    body = {"model": MODEL, "messages": messages, "max_tokens": 4, **facts}
    return client.post(CHAT, json=body).json()


def offline(messages: list[Any], name: str) -> dict[str, float]:
    probe = next(probe for probe in probes() if probe.name == name)
    (row,) = LanguageModel(FakeBackend()).score([as_conversation(messages)], [probe])
    return dict(row[name].probs)


def test_a_chat_has_verdicts_of_prompt_tool_and_response(client: TestClient) -> None:
    told = chat(client, TALK)["verdicts"]
    assert set(told["prompt"]) == {"last-user", "user", "assistant", "system", "all"}
    assert set(told["tool"]) == {"tool"}
    assert set(told["response"]) == {"response", "assistant", "all"}
    for part, name in [("prompt", "last-user"), ("prompt", "system"), ("tool", "tool")]:
        assert told[part][name]["probs"] == pytest.approx(offline(TALK, name), abs=2e-6)


def test_a_probe_without_words_says_so(client: TestClient) -> None:
    told = chat(client, TALK[1:2])["verdicts"]
    nothing = told["tool"]["tool"]
    assert (nothing["label"], nothing["probs"], nothing["decision"]) == (None, None, "allow")
    assert nothing["reason"] == "no turn of the tool has words, which the scope 'tool' reads"
    assert told["prompt"]["last-user"]["label"] is not None


def test_a_stream_says_the_same_before_the_first_token(client: TestClient) -> None:
    body = {"model": MODEL, "messages": TALK, "max_tokens": 2, "stream": True}
    first = next(
        line for line in client.post(CHAT, json=body).text.splitlines() if line.startswith("data:")
    )
    whole = chat(client, TALK)["verdicts"]
    told = json.loads(first.removeprefix("data:"))["verdicts"]
    assert (told["prompt"], told["tool"]) == (whole["prompt"], whole["tool"])


def test_a_server_whose_probes_read_prompts_alone_answers() -> None:
    """Behind the prompt nothing was read, and the answer failed for it."""
    probe = make_artefact("p", FakeBackend().identity, template="chat", scope="last-user")
    with application(PlainEngine(FakeBackend(), [probe])) as client:
        told = chat(client, TALK)["verdicts"]
    assert set(told["prompt"]) == {"p"} and told["response"] == {}


def test_a_raw_prompt_has_no_turns(client: TestClient) -> None:
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 2}
    told = client.post(COMPLETE, json=body).json()["verdicts"]
    assert told["prompt"]["last-user"]["label"] is None
    assert "a text without turns" in told["prompt"]["last-user"]["reason"]
    assert told["prompt"]["all"]["label"] is not None


def test_conversations_are_classified_by_turn(client: TestClient) -> None:
    body = {"messages": [ANSWERED, TALK[1:2]]}
    first, second = client.post(CLASSIFY, json=body).json()["data"]
    for name in SCOPES:
        assert first["verdicts"][name]["probs"] == pytest.approx(offline(ANSWERED, name), abs=2e-6)
    assert second["verdicts"]["response"]["label"] is None
    assert second["verdicts"]["last-user"]["probs"] == pytest.approx(
        offline(TALK[1:2], "last-user"), abs=2e-6
    )


def test_a_conversation_is_moderated_by_the_probe_that_is_named(client: TestClient) -> None:
    body = {"messages": ANSWERED, "model": "response"}
    (result,) = client.post(MODERATE, json=body).json()["results"]
    assert result["category_scores"]["yes"] == pytest.approx(
        offline(ANSWERED, "response")["yes"], abs=2e-6
    )
    error = refusal(client, MODERATE, {"messages": TALK, "model": "response"})
    assert "Input 1 cannot be judged by 'response'" in error["message"]


@pytest.mark.parametrize("body", [{}, {"input": "a", "messages": TALK}, {"messages": []}])
def test_texts_or_conversations_are_wanted(client: TestClient, body: Any) -> None:
    assert client.post(CLASSIFY, json=body).status_code == 400


def policy(**facts: Any) -> Any:
    return make_policies({"policies": [facts]})


@pytest.mark.parametrize(("fail", "reason"), [("open", "length"), ("closed", "content_filter")])
def test_a_policy_whose_probe_has_nothing_to_read_follows_fail(fail: str, reason: str) -> None:
    chosen = settings(policies=policy(probe="tool", on="prompt", action="block", fail=fail))
    with application(PlainEngine(FakeBackend(), probes()), chosen) as client:
        answer = chat(client, TALK[1:2], seed=1, temperature=1)
    assert answer["choices"][0]["finish_reason"] in (reason, "stop" if fail == "open" else reason)


def test_a_policy_on_answers_wants_a_probe_of_answers() -> None:
    known = {probe.name: probe for probe in probes()}
    with pytest.raises(ConfigError, match="is on responses, and probe 'last-user' reads"):
        policy(probe="last-user", action="stop", fail="open").check(known)
    with pytest.raises(ConfigError, match="is on prompts, and probe 'response' reads"):
        policy(probe="response", on="prompt", action="block", fail="open").check(known)
