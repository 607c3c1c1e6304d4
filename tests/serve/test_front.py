"""What surrounds every request: keys, limits, ids, logs, errors."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from client import CHAT, application, ask, chat, settings
from scripted import ScriptedEngine
from starlette.testclient import TestClient

from pillion.errors import ConfigError
from pillion.serve import Keys, Limits, load_keys
from pillion.serve.keys import Caller
from pillion.serve.logs import JsonFormatter
from pillion.serve.run import Place, check_place

SECRET = "a prompt that no other caller may read"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nsk-one\nsk-two admin\n\n")
    keys = load_keys(path, {"PILLION_API_KEYS": "sk-three, sk-four"})
    assert [
        getattr(keys.caller(f"sk-{n}"), "role", None)
        for n in ("one", "two", "three", "four", "five")
    ] == (["user", "admin", "user", "user", None])
    assert keys.caller("") is None and "sk-one" not in repr(keys)
    assert not load_keys(None, {})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no key"),
        ("a b\n", "line 1: one key is wanted.*Unknown word"),
        ("a admin x\n", "line 1"),
    ],
)
def test_a_file_without_keys_is_an_error(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_keys(path, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(tmp_path / "none", {})


def test_without_a_key_nothing_is_answered_but_health() -> None:
    keys = load_keys(None, {"PILLION_API_KEYS": "sk-one"})
    with application(ScriptedEngine(), settings(keys=keys)) as client:
        for headers in ({}, bearer("wrong"), {"Authorization": "sk-"}):
            answer = client.post(CHAT, json=chat(), headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/v1/models").status_code == 401
        assert client.get("/nothing").status_code == 401
        for path in ("/health", "/ready", "/metrics"):
            assert client.get(path).status_code == 200
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} sk-one"}
            assert client.post(CHAT, json=chat(), headers=headers).status_code == 200


def test_without_keys_only_this_machine_may_ask() -> None:
    with application(ScriptedEngine()) as client:
        app: Any = client.app
        for address, host, status in (
            ("127.0.0.1", "localhost", 200),
            ("::1", "[::1]:8000", 200),
            ("127.0.0.1", "127.0.0.1:80", 200),
            ("10.0.0.7", "localhost", 403),
            # A page of another site whose name leads here.
            ("127.0.0.1", "evil.example", 403),
        ):
            remote = TestClient(app, f"http://{host}", client=(address, 1))
            assert remote.get("/v1/models").status_code == status, (address, host)


def test_a_server_for_others_needs_keys() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_place(Place(host), settings())
    check_place(Place("0.0.0.0"), settings(keys=Keys(((b"", Caller("web")),))))
    for host in ("0.0.0.0", "::", "10.1.2.3", "example.org"):
        with pytest.raises(ConfigError, match="there is no API key"):
            check_place(Place(host), settings())


def test_a_body_has_a_limit_announced_or_not() -> None:
    def pieces() -> Any:
        for _ in range(4):
            yield b" " * 100

    with application(ScriptedEngine(), settings(limits=Limits(body_bytes=300))) as client:
        for body in (b" " * 301, pieces()):
            answer = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 413, answer.text
            assert answer.json()["error"]["code"] == "body_too_large"
        assert ask(client)["choices"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"model": ' * 50_000,
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
        b'{"\\udfff": 1}',
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 1e999}',
    ],
)
def test_a_malformed_body_is_a_400_in_openais_shape(client: TestClient, body: bytes) -> None:
    answer = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_nul_characters_are_text_like_any_other(client: TestClient) -> None:
    assert ask(client, text="a\0b", max_tokens=2)["choices"]


def test_a_body_that_says_it_is_no_json_is_refused(client: TestClient) -> None:
    answer = client.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 400


def test_unknown_routes_and_methods_are_told_in_openais_shape(client: TestClient) -> None:
    error = client.post("/v1/embeddings", json={}).json()["error"]
    assert error["type"] == "not_found_error" and "/v1/chat/completions" in error["message"]
    answer = client.get(CHAT)
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    assert answer.json()["error"]["message"]


def test_every_answer_has_an_id_the_clients_own_if_it_is_a_plain_one(client: TestClient) -> None:
    own = client.get("/health", headers={"X-Request-Id": "my-id.7"})
    assert own.headers["x-request-id"] == "my-id.7"
    ids = [
        client.get("/health", headers={"X-Request-Id": bad}).headers["x-request-id"]
        for bad in ("a b", "x" * 200, "")
    ]
    assert len(set(ids)) == 3 and all(len(one) == 32 for one in ids)
    assert client.post(CHAT, json={}).headers["x-request-id"]


def facts_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    shown = JsonFormatter()
    lines = [json.loads(shown.format(r)) for r in caplog.records if r.name == "pillion.serve"]
    return [line for line in lines if line["event"] != "probe_unchecked"]


def test_the_log_says_what_happened_and_never_what_was_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with application(ScriptedEngine(words=("an answer", " of ours"))) as client:
        ask(client, text=SECRET)
        client.post(CHAT, json=chat(SECRET, stream=True))
        client.post(CHAT, json=chat(SECRET, tools=[{SECRET: 1}]))
        client.post("/v1/classify", json={"input": SECRET})
    lines = facts_of(caplog)
    assert [line["status"] for line in lines] == [200, 200, 400, 200]
    assert lines[0]["prompt_tokens"] == len(SECRET) + 2 and lines[0]["completion_tokens"] == 2
    assert lines[0]["finish_reason"] == "stop" and lines[0]["first_token_seconds"] >= 0
    assert lines[0]["route"] == CHAT and lines[0]["request_id"]
    everything = json.dumps(lines) + caplog.text
    assert SECRET not in everything and "of ours" not in everything


def test_prompts_are_logged_where_that_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pillion.serve")
    with application(ScriptedEngine(), settings(log_prompts=True)) as client:
        ask(client, text=SECRET)
    (line,) = facts_of(caplog)
    assert SECRET in line["prompts"][0] and line["answers"] == ["one two three four five "]


def test_a_failure_that_nobody_foresaw_is_a_500_without_its_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine(raises=ValueError(SECRET))
    with application(engine) as client:
        answer = client.post(CHAT, json=chat())
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    failure = facts_of(caplog)[0]
    assert failure["error"] == "ValueError" and "scripted.py" in failure["at"][-1]
    assert SECRET not in caplog.text + answer.text


def test_readiness_follows_the_engine_and_the_drain() -> None:
    with application(ScriptedEngine()) as client:
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        assert client.get("/ready").status_code == 200
        service.health.draining = True
        assert client.get("/ready").json() == {"status": "draining"}
        assert client.get("/health").status_code == 200
        answer = client.post(CHAT, json=chat())
        assert answer.status_code == 503 and answer.headers["retry-after"]
        service.health.draining = False
    assert service.health.state == "starting"


def test_metrics_count_requests_tokens_and_verdicts() -> None:
    with application(ScriptedEngine(prompt_score=0.9)) as client:
        ask(client)
        client.get("/v1/nothing")
        text = client.get("/metrics").text
    for line in (
        f'pillion_requests_total{{route="{CHAT}",status="200"}} 1.0',
        'pillion_requests_total{route="none",status="404"} 1.0',
        'pillion_verdicts_total{label="yes",part="prompt",probe="p"} 1.0',
        'pillion_verdicts_total{label="no",part="response",probe="p"} 1.0',
        'pillion_score_bucket{label="yes",le="0.9",part="prompt",probe="p"} 1.0',
        'pillion_score_bucket{label="yes",le="0.85",part="prompt",probe="p"} 0.0',
        "pillion_time_to_first_token_seconds_count 1.0",
        "pillion_time_between_tokens_seconds_count 4.0",
        "pillion_generated_tokens_total 7.0",
        "pillion_queue 0.0",
        "pillion_running 0.0",
        "pillion_tokens_per_second 0.0",
        "pillion_probe_seconds_total 0.0",
    ):
        assert line in text, line


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="Limit queue is 0"):
        Limits(queue=0)


def test_the_page_may_not_be_framed_and_loads_nothing_from_elsewhere() -> None:
    with application(ScriptedEngine()) as client:
        headers = client.get("/").headers
    assert headers["x-frame-options"] == "DENY"
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
