"""Conversations over HTTP: a probe judges the turns of its scope, and says so where it cannot."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from client import CHAT, COMPLETE, MODEL, application, refusal, settings
from starlette.testclient import TestClient

from chat_templates import chat_backend
from pillion.backends.fake import FakeBackend
from pillion.core import SCOPES, Scope, as_conversation
from pillion.errors import ConfigError
from pillion.runtime import ContinuousEngine, LanguageModel, PagedSettings, PlainEngine
from pillion.serve import make_policies
from tiny_models import full_states, make_artefact
from tiny_models import offline as offline_of

CLASSIFY, MODERATE, EXPLAIN = "/v1/classify", "/v1/moderations", "/v1/explain"
SCOPE_OF: dict[str, Scope] = {scope: scope for scope in SCOPES}
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


def explained(client: TestClient, **facts: Any) -> Any:
    answer = client.post(EXPLAIN, json=facts)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("name", ["last-user", "tool", "system", "response", "all"])
def test_a_conversation_is_explained_turn_by_turn(client: TestClient, name: str) -> None:
    found = explained(client, messages=ANSWERED, probe=name, label="yes")
    assert found["prob"] == pytest.approx(offline(ANSWERED, name)["yes"], abs=2e-6)
    assert [one["turn"] for one in found["segments"]] == [0, 1, 2, 3, 4]
    read = FakeBackend().encode_chat(as_conversation(ANSWERED)).ranges(SCOPE_OF[name])
    places = {place for part in read for place in part}
    added = {x for row in found["contributions"] for x, value in enumerate(row) if value}
    assert added and added <= places


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": TALK[1:2], "probe": "tool"}, "Probe 'tool' has nothing to read: no turn of"),
        ({"input": "hello", "template": "raw", "probe": "user"}, "a text without turns has no"),
        ({"messages": TALK, "input": "hello"}, "one of the two"),
        ({"messages": TALK, "template": "raw"}, "reads no turns"),
        ({"messages": [], "probe": "tool"}, "messages"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_a_sentence(
    client: TestClient, body: Any, words: str
) -> None:
    assert words in refusal(client, EXPLAIN, body)["message"]


def test_the_list_of_probes_tells_whose_words_they_read(client: TestClient) -> None:
    listed = client.get("/v1/probes").json()["data"]
    assert {one["id"]: one["scope"] for one in listed} == {scope: scope for scope in SCOPES}


def policy(**facts: Any) -> Any:
    return make_policies({"policies": [facts]})


@pytest.mark.parametrize(("fail", "reason"), [("open", "length"), ("closed", "content_filter")])
def test_a_policy_whose_probe_has_nothing_to_read_follows_fail(fail: str, reason: str) -> None:
    chosen = settings(policies=policy(probe="tool", on="prompt", action="block", fail=fail))
    with application(PlainEngine(FakeBackend(), probes()), chosen) as client:
        answer = chat(client, TALK[1:2], seed=1, temperature=1)
    assert answer["choices"][0]["finish_reason"] in (reason, "stop" if fail == "open" else reason)


def test_a_policy_on_what_a_tool_said_blocks_over_a_real_engine() -> None:
    """The verdict comes from the engine's own steps, before the answer begins."""
    backend = chat_backend()
    probe = make_artefact("t", backend.identity, template="chat", scope="tool")
    (alone,) = LanguageModel(backend).score([as_conversation(TALK)], [probe])
    score = alone["t"].probs["yes"]
    sizes = PagedSettings(8, 512, max_chunk_tokens=16, max_requests=4)
    for threshold, blocked in [(score - 1e-4, True), (score + 1e-4, False)]:
        chosen = settings(
            policies=policy(
                probe="t", on="prompt", action="block", threshold=threshold, fail="open"
            )
        )
        with application(ContinuousEngine(backend, [probe], sizes), chosen) as client:
            told, free = chat(client, TALK), chat(client, TALK[1:2])
            reasons = [one["choices"][0]["finish_reason"] for one in (told, free)]
        assert told["verdicts"]["tool"]["t"]["probs"]["yes"] == pytest.approx(score, abs=2e-5)
        assert told["verdicts"]["tool"]["t"]["decision"] == ("block" if blocked else "allow")
        assert reasons == ["content_filter" if blocked else "length", "length"]
        assert free["verdicts"]["tool"]["t"]["label"] is None


def test_a_classified_answer_is_read_without_its_reasoning() -> None:
    backend = chat_backend("qwen3")
    probe = make_artefact("r", backend.identity, template="chat", scope="response")
    asked, said = TALK[1], "<think>It is theirs.</think>Twelve."
    with application(PlainEngine(backend, [probe])) as client:
        body = {"messages": [asked, {"role": "assistant", "content": said}]}
        found = client.post(CLASSIFY, json=body).json()["data"][0]["verdicts"]["r"]
    row = backend.encode_chat(as_conversation(body["messages"]))
    states = full_states(backend, row)
    num_words = len(backend.encode("Twelve.", "raw"))
    spoken = [range(len(row) - num_words, len(row))]
    wanted = offline_of(probe, states, spoken)
    assert found["probs"]["yes"] == pytest.approx(float(wanted[0]), abs=1e-5)
    every = offline_of(probe, states, [range(row.segments[0].end, len(row))])
    assert abs(float(every[0]) - found["probs"]["yes"]) > 1e-3


def test_a_policy_on_answers_wants_a_probe_of_answers() -> None:
    known = {probe.name: probe for probe in probes()}
    with pytest.raises(ConfigError, match="is on responses, and probe 'last-user' reads"):
        policy(probe="last-user", action="stop", fail="open").check(known)
    with pytest.raises(ConfigError, match="is on prompts, and probe 'response' reads"):
        policy(probe="response", on="prompt", action="block", fail="open").check(known)
