"""`/v1/chat/completions`: whole answers and streams, their verdicts and their limits."""

from __future__ import annotations

from typing import Any

import pytest
from client import CHAT, COMPLETE, application, ask, chat, refusal, settings, streamed, text_of
from scripted import ScriptedEngine
from starlette.testclient import TestClient

from pillion.backends.fake import FakeBackend
from pillion.errors import RunError
from pillion.runtime import LanguageModel, PlainEngine, Sampling
from pillion.serve import Limits
from tiny_models import make_artefact


def test_an_answer_has_openais_shape_and_verdicts_at_the_top(client: TestClient) -> None:
    body = ask(client, max_tokens=8, temperature=0)
    assert body["object"] == "chat.completion" and body["model"] == "m"
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant" and choice["index"] == 0
    assert choice["finish_reason"] == "length"
    used = body["usage"]
    assert used["completion_tokens"] == 8
    assert used["total_tokens"] == used["prompt_tokens"] + 8
    for part in ("prompt", "response"):
        verdicts = body["verdicts"][part]
        assert list(verdicts) == ["safe", "topic", "tags"]
        assert set(verdicts["safe"]) == {"label", "probs", "threshold", "decision"}
        assert isinstance(verdicts["tags"]["label"], list)
        assert sum(verdicts["topic"]["probs"].values()) == pytest.approx(1, abs=1e-5)
    assert body["verdicts"]["response_tokens"] == 7  # the last one is sampled, never read


def test_verdicts_are_those_of_the_language_model(client: TestClient) -> None:
    backend = FakeBackend()
    probe = make_artefact("safe", backend.identity)
    alone = LanguageModel(backend).generate("hello", [probe], 12)
    body = ask(client, text="hello", max_tokens=12, temperature=0)

    assert body["choices"][0]["message"]["content"] == alone.text
    for part, verdicts in (("prompt", alone.prompt), ("response", alone.response)):
        got = body["verdicts"][part]["safe"]["probs"]
        assert got == pytest.approx(dict(verdicts["safe"].probs), abs=2e-6)


def test_a_stream_tells_the_prompts_verdicts_first_and_the_totals_last(client: TestClient) -> None:
    first, *pieces, last = streamed(client, max_tokens=8, temperature=0)
    whole = ask(client, max_tokens=8, temperature=0)

    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["verdicts"]["prompt"] == whole["verdicts"]["prompt"]
    assert first["verdicts"]["response"] == {}
    assert [p["verdicts"]["response_tokens"] for p in pieces] == list(range(len(pieces)))
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["verdicts"] == whole["verdicts"]
    assert text_of(pieces) == whole["choices"][0]["message"]["content"]
    assert {chunk["id"] for chunk in (first, *pieces, last)} == {first["id"]}


def test_running_verdicts_are_those_of_the_tokens_before(client: TestClient) -> None:
    backend = FakeBackend()
    probe = make_artefact("safe", backend.identity)
    tokens = list(LanguageModel(backend).stream("hello", [probe], 8))
    _, *pieces, _ = streamed(client, max_tokens=8, temperature=0)
    for token, piece in zip(tokens, pieces, strict=True):
        got = piece["verdicts"]["response"]
        assert set(got) >= set(token.verdicts)
        for name, verdict in token.verdicts.items():
            assert got[name]["probs"] == pytest.approx(dict(verdict.probs), abs=2e-6)


def test_usage_comes_in_a_last_chunk_if_it_is_asked_for(client: TestClient) -> None:
    *chunks, last = streamed(client, max_tokens=3, stream_options={"include_usage": True})
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 3
    assert all(chunk["usage"] is None for chunk in chunks)
    assert all("usage" not in chunk for chunk in streamed(client, max_tokens=3))


def test_the_seed_decides_and_choices_differ(client: TestClient) -> None:
    hot: dict[str, Any] = {"temperature": 2, "max_tokens": 12, "n": 3}
    one, same, other = (ask(client, seed=s, **hot) for s in (1, 1, 9))
    texts = [[c["message"]["content"] for c in body["choices"]] for body in (one, same, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) > 1
    assert one["verdicts"] == one["choices"][0]["verdicts"]
    assert one["usage"]["completion_tokens"] == sum(
        1 + c["verdicts"]["response_tokens"] for c in one["choices"]
    )
    merged = streamed(client, seed=1, **hot)
    assert [text_of(merged, i) for i in range(3)] == texts[0]


def test_sampling_reaches_the_engine() -> None:
    engine = ScriptedEngine()
    with application(engine) as client:
        ask(client, temperature=0.5, top_p=0.25, seed=2**40 + 3, max_completion_tokens=4)
        ask(client)
        ask(client)
    one, two, three = engine.submitted
    assert one.sampling == Sampling(0.5, 0.25, 3) and one.max_tokens == 4
    assert not one.sampling.shifts
    # OpenAI's defaults: temperature 1, and a random seed.
    assert two.sampling.temperature == 1 and two.sampling.seed != three.sampling.seed
    assert two.max_tokens == engine.identity.context_tokens - len(two.token_ids)


class Dicing(ScriptedEngine):
    """Draws anew each time, as vLLM does on a CPU."""

    @property
    def repeats_draws(self) -> bool:
        return False


def test_a_seed_is_refused_where_it_would_decide_nothing() -> None:
    """The bug: it was taken and left out without a word."""
    with application(Dicing()) as client:
        for temperature in (None, 0.5):
            refused = client.post(CHAT, json=chat(seed=1, temperature=temperature))
            assert refused.status_code == 400 and refused.json()["error"]["param"] == "seed"
            assert "whatever the seed" in refused.json()["error"]["message"]
        ask(client, seed=1, temperature=0)
        ask(client, temperature=0.5)


def test_what_shifts_logits_reaches_the_engine() -> None:
    engine = ScriptedEngine()
    facts = {"presence_penalty": -2, "frequency_penalty": 0.5, "repetition_penalty": 1.5}
    with application(engine) as client:
        ask(client, seed=0, min_p=0.1, logit_bias={"3": -100, "257": 2.5}, **facts)
    wanted = Sampling(1.0, 1.0, 0, 0.1, -2.0, 0.5, 1.5, ((3, -100.0), (257, 2.5)))
    assert engine.submitted[0].sampling == wanted


@pytest.mark.parametrize(
    ("stop", "text", "num_read"),
    [
        # The token that completes a stop string was not read yet.
        ("three", "one two ", 2),
        (["ee fo", "x"], "one two thr", 3),
        ([], "one two three four five ", 5),
    ],
)
def test_an_answer_ends_before_a_stop_string(stop: Any, text: str, num_read: int) -> None:
    engine = ScriptedEngine()
    with application(engine) as client:
        body, chunks = ask(client, stop=stop), streamed(client, stop=stop)
    assert body["choices"][0]["message"]["content"] == text_of(chunks) == text
    for end in (body, chunks[-1]):
        assert end["choices"][0]["finish_reason"] == "stop"
        assert end["verdicts"]["response_tokens"] == num_read
    assert engine.closed == [request.id for request in engine.submitted]


def test_logprobs_are_told_for_every_token_that_is_said() -> None:
    with application(ScriptedEngine()) as client:
        body = ask(client, logprobs=True, top_logprobs=2)
        (one, *_) = content = body["choices"][0]["logprobs"]["content"]
        assert [entry["token"] for entry in content] == ["one ", "two ", "three ", "four ", "five "]
        assert one["logprob"] == -0.5 and one["bytes"] == list(b"one ")
        assert [top["logprob"] for top in one["top_logprobs"]] == [-0.5, -2.0]
        stopped = ask(client, logprobs=True, stop="hree")["choices"][0]
        assert [entry["token"] for entry in stopped["logprobs"]["content"]] == ["one ", "two "]
        chunks = streamed(client, logprobs=True)
        said = [c["choices"][0]["logprobs"] for c in chunks]
        assert said[0] is None and said[1]["content"][0]["token"] == "one "
        assert ask(client)["choices"][0]["logprobs"] is None


def test_an_answer_of_ours_can_be_sent_back_as_it_came(client: TestClient) -> None:
    message = ask(client, max_tokens=4)["choices"][0]["message"]
    turns = [
        {"role": "developer", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "o"}],
        },
        {**message, "tool_calls": None, "annotations": [], "function_call": None, "audio": None},
        {"role": "user", "content": "more"},
    ]
    body = {"model": "m", "messages": turns, "max_tokens": 2}
    assert client.post(CHAT, json=body).status_code == 200


HARMLESS: dict[str, Any] = {
    "user": "u",
    "metadata": {"a": "b"},
    "store": True,
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "service_tier": "auto",
}
MEANINGLESS: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "tools": [],
    "tool_choice": "none",
    "functions": None,
    "parallel_tool_calls": True,
    "reasoning_effort": "none",
}


def test_parameters_without_effect_are_accepted(client: TestClient) -> None:
    assert ask(client, max_tokens=1, **HARMLESS, **MEANINGLESS)["choices"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modalities", ["audio"]),
        ("audio", {}),
        ("functions", [{}]),
        ("prediction", {}),
        ("reasoning_effort", "high"),
        ("web_search_options", {}),
        ("service_tier", "flex"),
        ("moderation", {}),
        ("verbosity", "low"),
    ],
)
def test_parameters_that_are_not_honoured_are_refused_by_name(
    client: TestClient, name: str, value: Any
) -> None:
    error = refusal(client, CHAT, chat(**{name: value}))
    assert error["code"] == "unsupported_parameter" and error["param"] == name
    assert error["message"].startswith(f"{name}: this server has no support for it")


@pytest.mark.parametrize(
    ("facts", "param", "message"),
    [
        ({"temprature": 1}, "temprature", "Did you mean 'temperature'"),
        ({"top_k": 5}, "top_k", "Unknown parameter 'top_k'"),
        ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": True}, "n", "valid integer"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, None, "differ"),
        ({"max_tokens": 600}, "messages", "context is 512 tokens"),
        ({"max_tokens": 5000}, "max_tokens", "gives up to 4,096"),
        ({"n": 17}, "n", "wants 17 answers"),
        ({"seed": 2**64}, "seed", ""),
        ({"min_p": -0.1}, "min_p", "greater than or equal to 0"),
        ({"presence_penalty": 2.1}, "presence_penalty", "less than or equal to 2"),
        ({"frequency_penalty": "1"}, "frequency_penalty", "valid number"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater than or equal to"),
        ({"logit_bias": {"258": 1}}, "logit_bias", "token id 258 is none of this model's"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": {"1": True}}, "logit_bias", "token ids, each with a number"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "token ids, each with a number"),
        ({"logit_bias": [1]}, "logit_bias", "token ids, each with a number"),
        ({"stop": ["a"] * 5}, "stop", "up to 4 strings"),
        ({"stop": ""}, "stop", "none of them empty"),
        ({"stop": 3}, "stop", "is wanted"),
        ({"top_logprobs": 2}, None, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"stream_options": {"include_usage": True}}, None, "only for streams"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "Unknown"),
        ({"messages": []}, "messages", "messages should have at least 1 item, not 0."),
        ({"messages": "hi"}, "messages", "messages should be a valid list."),
        (
            {"messages": [{"role": "boss", "content": "x"}]},
            "messages.0.role",
            "should be 'system', 'developer', 'user', 'assistant' or 'tool'.",
        ),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "is missing, and required"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "valid string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
            "only parts of type 'text'",
        ),
        ({"messages": [{"role": "user", "content": "x", "nme": "y"}]}, "messages.0.nme", "'name'"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(
    client: TestClient, facts: dict[str, Any], param: str | None, message: str
) -> None:
    error = refusal(client, CHAT, {**chat(), **facts})
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param and message in error["message"]


def test_the_model_is_one_of_ours(client: TestClient) -> None:
    error = refusal(client, CHAT, chat() | {"model": "gpt-9"}, 404)
    assert error["code"] == "model_not_found" and "'m' is" in error["message"]
    assert client.get("/v1/models").json()["data"][0]["id"] == "m"
    assert client.get("/v1/models/m").json()["object"] == "model"
    assert client.get("/v1/models/n").status_code == 404


def test_a_prompt_that_is_too_long_says_how_long_it_may_be(client: TestClient) -> None:
    error = refusal(client, CHAT, chat("x" * 600))
    assert error["code"] == "context_length_exceeded" and "602" in error["message"]
    few = settings(limits=Limits(prompt_chars=10))
    with application(ScriptedEngine(), few) as short:
        assert "takes 10" in refusal(short, CHAT, chat("x" * 11))["message"]


def test_more_than_the_queue_holds_are_told_to_come_back() -> None:
    with application(ScriptedEngine(), settings(limits=Limits(queue=1))) as client:
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.waiting = 1
        answer = client.post(CHAT, json=chat())
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "queue_full"
        service.waiting = 0
        assert ask(client)["choices"]
        assert service.waiting == 0


def test_an_answer_that_takes_too_long_is_ended() -> None:
    engine = ScriptedEngine(words=["a "] * 400, seconds=0.02)
    with application(engine, settings(limits=Limits(seconds=0.2))) as client:
        answer = client.post(CHAT, json=chat())
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        lines = client.post(CHAT, json=chat(stream=True)).text.strip().splitlines()
    assert '"code": "timeout"' in lines[-3] and lines[-1] == "data: [DONE]"
    assert len(engine.closed) == 2


def test_an_engine_that_fails_is_a_503_that_says_why() -> None:
    engine = ScriptedEngine(raises=RunError("The engine is shutting down; ask again."))
    with application(engine) as client:
        error = refusal(client, CHAT, chat(), 503)
    assert error["code"] == "engine_error" and "shutting down" in error["message"]


def test_an_answer_without_probes_has_empty_verdicts() -> None:
    with application(PlainEngine(FakeBackend())) as client:
        body = ask(client, max_tokens=3)
    assert body["verdicts"] == {"prompt": {}, "response": {}, "response_tokens": 2}


def test_a_chat_that_names_no_limit_gets_what_the_server_gives() -> None:
    engine = ScriptedEngine(words=["w "] * 40)
    with application(engine, settings(limits=Limits(output_tokens=7))) as client:
        body = client.post(CHAT, json=chat()).json()
    assert engine.submitted[0].max_tokens == 7
    assert body["usage"]["completion_tokens"] == 7
    assert body["choices"][0]["finish_reason"] == "length"


def test_answers_to_all_prompts_together_have_a_limit() -> None:
    with application(ScriptedEngine(), settings(limits=Limits(choices=4))) as client:
        body = {"model": "m", "prompt": ["one", "two"], "max_tokens": 1}
        assert len(client.post(COMPLETE, json=body | {"n": 2}).json()["choices"]) == 4
        refused = client.post(COMPLETE, json=body | {"n": 3})
    assert refused.status_code == 400 and "wants 6 answers" in refused.json()["error"]["message"]
