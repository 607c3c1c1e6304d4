"""Who asks: quotas of keys, prefixes that keys share or do not, and a line for the audit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from client import CHAT, MODEL, application, chat, settings
from scripted import ScriptedEngine
from starlette.testclient import TestClient

from pillion.backends.paged import PagedSettings
from pillion.errors import ConfigError
from pillion.runtime import ContinuousEngine
from pillion.serve import Keys, load_keys
from pillion.serve.keys import Caller, Quota
from pillion.serve.logs import JsonFormatter
from pillion.serve.quotas import Account
from pillion.serve.refusal import Refused
from tiny_models import make_artefact, tiny_backend


def keys(tmp_path: Path, text: str) -> Keys:
    path = tmp_path / "keys"
    path.write_text(text)
    return load_keys(path, {})


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_file_names_keys_and_gives_them_quotas(tmp_path: Path) -> None:
    found = keys(tmp_path, "sk-a name=web requests=60 tokens=9000 in_flight=4\nsk-b admin\n")
    assert found.caller("sk-a") == Caller("web", "user", Quota(60, 9000, 4))
    other = found.caller("sk-b")
    assert other is not None and other.name.startswith("key-") and "sk-b" not in other.name
    assert other.role == "admin" and other.quota == Quota()
    for line, sentence in (
        ("sk-a request=4", "Did you mean 'requests'"),
        ("sk-a requests=0", "no number above 0"),
        ("sk-a tokens=x", "no number above 0"),
        ("sk-a name=a/b", "is no name"),
        ("sk-a name=web requests=1\nsk-b name=web", "different quotas"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            keys(tmp_path, line)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def after(account: Account) -> int:
    """The Retry-After of a request now; 0 where it is taken."""
    try:
        with account.request():
            return 0
    except Refused as error:
        assert error.status_code == 429 and error.headers is not None
        return int(error.headers["Retry-After"])


def test_a_quota_is_a_minutes_worth_at_once_and_then_as_it_flows_in() -> None:
    clock = Clock()
    account = Account(Caller("web", "user", Quota(requests=6)), clock)
    assert [after(account) for _ in range(7)] == [0] * 6 + [10]
    clock.now = 9.9
    assert after(account) == 1
    clock.now = 10.1
    assert [after(account) for _ in range(2)] == [0, 10]
    clock.now = 1e6
    assert [after(account) for _ in range(7)] == [0] * 6 + [10]


def test_tokens_that_were_used_beyond_a_quota_have_to_flow_in_again() -> None:
    clock = Clock()
    account = Account(Caller("web", "user", Quota(tokens=60)), clock)
    account.spend(100)
    assert after(account) == 41
    clock.now = 41.5
    assert after(account) == 0


def test_requests_in_flight_are_counted_and_let_go() -> None:
    account = Account(Caller("web", "user", Quota(in_flight=1)))
    with account.request():
        assert after(account) == 1
    assert after(account) == 0


def test_a_key_beyond_its_quota_is_told_when_to_come_back_and_others_are_answered(
    tmp_path: Path,
) -> None:
    found = keys(tmp_path, "sk-a name=web requests=2\nsk-b tokens=3\nsk-c\n")
    with application(ScriptedEngine(), settings(keys=found)) as client:

        def ask(key: str) -> Any:
            return client.post(CHAT, json=chat(), headers=bearer(key))

        assert [ask("sk-a").status_code for _ in range(3)] == [200, 200, 429]
        refused = ask("sk-a")
        assert int(refused.headers["retry-after"]) > 0
        error = refused.json()["error"]
        assert error["code"] == "quota_exceeded" and error["type"] == "rate_limit_error"
        assert [ask("sk-b").status_code for _ in range(2)] == [200, 429]
        assert [ask("sk-c").status_code for _ in range(4)] == [200] * 4
        assert client.get("/v1/models", headers=bearer("sk-a")).status_code == 200


def test_vllms_classify_counts_and_wants_a_key_though_its_path_has_no_version(
    tmp_path: Path,
) -> None:
    found, body = keys(tmp_path, "sk-a name=web requests=1\n"), {"input": "a"}
    with application(ScriptedEngine(), settings(keys=found)) as client:
        assert client.post("/classify", json=body).status_code == 401
        told = [client.post("/classify", json=body, headers=bearer("sk-a")) for _ in range(2)]
        assert [answer.status_code for answer in told] == [200, 429]
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.health.draining = True
        drained = client.post("/classify", json=body, headers=bearer("sk-a"))
        assert drained.json()["error"]["code"] == "draining"


def cached(client: TestClient, key: str, **facts: Any) -> int:
    body = chat("The same words to begin with, long enough for pages. " * 3, max_tokens=2, **facts)
    answer = client.post(CHAT, json=body, headers=bearer(key))
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("share", ["off", "key", "all"])
def test_a_key_learns_of_anothers_prompts_only_where_the_operator_shares_them(
    tmp_path: Path, share: Any
) -> None:
    """`cached_tokens` told one key how much of another's prompt it had guessed."""
    backend = tiny_backend()
    sizes = PagedSettings(page_tokens=4, cache_tokens=2048, max_chunk_tokens=64)
    engine = ContinuousEngine(backend, [make_artefact("p", backend.identity)], sizes)
    chosen = settings(keys=keys(tmp_path, "sk-a\nsk-b\n"), share_prefixes=share)
    with application(engine, chosen) as client:
        assert cached(client, "sk-a") == 0
        assert (cached(client, "sk-a") > 100) == (share != "off")
        assert (cached(client, "sk-b") > 100) == (share == "all")
        assert (cached(client, "sk-b") > 100) == (share != "off")
        assert cached(client, "sk-b", prompt_cache_key="mine") == 0
        assert (cached(client, "sk-b", prompt_cache_key="mine") > 100) == (share != "off")


def test_a_line_for_the_audit_names_caller_verdicts_and_decisions_but_no_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret, found = "a prompt that no other caller may read", keys(tmp_path, "sk-a name=web\n")
    caplog.set_level(logging.INFO, "pillion.serve")
    with application(ScriptedEngine(prompt_score=0.9), settings(keys=found)) as client:
        client.post(CHAT, json=chat(secret), headers=bearer("sk-a"))
        body = {"input": [secret, "b"], "model": MODEL}
        client.post("/v1/classify", json=body, headers=bearer("sk-a"))
    lines = [json.loads(JsonFormatter().format(r)) for r in caplog.records]
    one, two = [line for line in lines if line["event"] == "request"]
    assert one["caller"] == two["caller"] == "web"
    assert one["prompt_verdicts"][0]["p"]["label"] == "yes"
    assert one["prompt_verdicts"][0]["p"]["decision"] == "allow"
    assert one["response_verdicts"][0]["p"]["label"] == "no"
    assert two["text_verdicts"] == {"p": {"yes": 2}}
    assert secret not in caplog.text and "sk-a" not in json.dumps(lines)
