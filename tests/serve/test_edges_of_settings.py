"""What an operator may write that no server could follow is refused before it starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import httpx
import pytest
from client import CHAT, application, ask, chat, settings, streamed
from made_policies import BLOCK, ESCALATE, JUDGES, ROUTE, UPSTREAMS, policies
from scripted import ScriptedEngine

from pillion.cli.serve_options import LimitOptions
from pillion.errors import ConfigError
from pillion.serve import create_app, load_keys, make_policies
from pillion.serve.run import Place
from pillion.serve.upstream import read_probability

Made = dict[str, Any]


@pytest.mark.parametrize("megabytes", [math.nan, math.inf, -math.inf])
def test_a_size_without_end_is_refused(megabytes: float) -> None:
    with pytest.raises(ConfigError, match="--max-body-mb is"):
        LimitOptions(max_body_mb=megabytes).limits()


@pytest.mark.parametrize("name", ["drain_seconds", "notice_seconds"])
@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_a_wait_is_a_finite_number_of_seconds(name: str, seconds: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        Place(**{name: seconds})
    assert Place(drain_seconds=0.0, notice_seconds=0.0).notice_seconds == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("k requests=" + "9" * 5000, "15 digits"),
        ("k tokens=" + "9" * 400, "15 digits"),
        ("k requests=1" + "0" * 15, "15 digits"),
        ("k in_flight=0", "above 0"),
        ("k in_flight=1 in_flight=2", "'in_flight' stands there twice"),
        ("k name=a requests=5 name=b", "'name' stands there twice"),
        ("schlüssel", "beyond those of ASCII"),
        ("k\0", "beyond those of ASCII"),
    ],
)
def test_a_line_of_keys_can_be_followed(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        load_keys(path, {})
    assert "line 2" in str(caught.value) and "schlüssel" not in str(caught.value)


def test_a_key_of_the_environment_can_be_carried() -> None:
    with pytest.raises(ConfigError, match="PILLION_API_KEYS: a key holds"):
        load_keys(None, {"PILLION_API_KEYS": "good,schlüssel"})


def test_the_largest_quota_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"k requests=00{'9' * 15} tokens={'9' * 15}\n")
    with application(ScriptedEngine(), settings(keys=load_keys(path, {}))) as client:
        answer = client.post(CHAT, json=chat(), headers={"Authorization": "Bearer k"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://h:port/v1", "http://h:99999/v1", "http://\u2100/v1", "http://h\x01/v1"],
)
@pytest.mark.parametrize(("action", "kind"), [(ESCALATE, "judges"), (ROUTE, "upstreams")])
def test_a_url_that_no_client_takes_is_refused_at_the_start(
    action: Made, kind: str, url: str
) -> None:
    """It failed with every request that it was needed for: a 500, whatever `fail` said."""
    servers = {"judges": JUDGES, "upstreams": UPSTREAMS}
    servers[kind] = {name: {**one, "url": url} for name, one in servers[kind].items()}
    chosen = make_policies({"policies": [{"probe": "p", **action}], **servers})
    with pytest.raises(ConfigError, match="write"):
        create_app(ScriptedEngine(), settings(policies=chosen))


@pytest.mark.parametrize("key", ["ke\ny", "key\n", " key", "schlüssel"])
def test_a_key_that_no_request_can_carry_is_refused_at_the_start(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge was never reached, and every verdict in the band failed open or closed."""
    monkeypatch.setenv("JUDGE_KEY", key)
    judge = {**JUDGES["big"], "api_key_env": "JUDGE_KEY"}
    chosen = make_policies({"policies": [{"probe": "p", **ESCALATE}], "judges": {"big": judge}})
    with pytest.raises(ConfigError, match="JUDGE_KEY holds") as caught:
        create_app(ScriptedEngine(), settings(policies=chosen))
    assert "schlüssel" not in str(caught.value)


def saying(content: bytes) -> httpx.MockTransport:
    """Another server that answers everything with these bytes."""
    return httpx.MockTransport(lambda request: httpx.Response(200, content=content))


ODD = [b'{"x": NaN}', b'{"x": 1e400}', b'{"x": "\\ud800"}', b"[" * 100_000, b"[]", b"1"]


@pytest.mark.parametrize("content", ODD)
def test_what_an_upstream_sends_is_sent_on_only_if_it_is_json(content: bytes) -> None:
    """It could not be written as JSON again: a 500, though the policy fails open."""
    engine = ScriptedEngine(prompt_score=0.9)
    with application(engine, policies(ROUTE), saying(content)) as client:
        assert ask(client)["choices"][0]["message"]["content"]
    closed = policies({**ROUTE, "fail": "closed"})
    with application(ScriptedEngine(prompt_score=0.9), closed, saying(content)) as client:
        answer = client.post(CHAT, json=chat())
    assert answer.status_code == 502 and "no JSON object" in answer.json()["error"]["message"]


@pytest.mark.parametrize("content", ODD)
def test_a_stream_of_an_upstream_that_is_no_json_ends_with_an_error(content: bytes) -> None:
    stream = b'data: {"choices": []}\n\ndata: ' + content + b"\n\ndata: [DONE]\n\n"
    engine = ScriptedEngine(prompt_score=0.9)
    with application(engine, policies(ROUTE), saying(stream)) as client:
        chunks = streamed(client)
    assert chunks[-1]["error"]["code"] == "upstream_failed"


def test_a_judge_without_an_end_has_said_nothing() -> None:
    engine = ScriptedEngine(prompt_score=0.5)
    with application(engine, policies(ESCALATE), saying(b"[" * 100_000)) as client:
        assert ask(client)["choices"][0]["finish_reason"] == "content_filter"  # it fails closed


def first_words(**logprobs: Any) -> Any:
    """A judge's yes, with log-probabilities of what it might have begun with."""
    top = [{"token": word, "logprob": value} for word, value in logprobs.items()]
    content = [{"token": "yes", "logprob": 0, "top_logprobs": top}]
    return {"choices": [{"message": {"content": "yes"}, "logprobs": {"content": content}}]}


@pytest.mark.parametrize(
    "logprobs", [{"yes": math.nan, "no": -1}, {"yes": -1, "no": math.nan}, {"yes": 10**400}]
)
def test_a_judges_chances_are_numbers_or_it_has_given_none(logprobs: Made) -> None:
    """NaN went into the labels that are learnt from."""
    assert read_probability(first_words(**logprobs)) == 1.0


def test_a_chance_of_zero_is_a_number() -> None:
    assert read_probability(first_words(yes=-1, no=-math.inf)) == 1.0


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_whole_text(stream: bool, tmp_path: Path) -> None:
    """Half of a surrogate pair could not be sent: a 500 in the place of every refusal."""
    with pytest.raises(ConfigError, match=r"policies\[0\].refusal: half of a surrogate pair"):
        policies({**BLOCK, "refusal": "No \ud800"})
    said = policies({**BLOCK, "refusal": "No \U0001f6d1"})
    with application(ScriptedEngine(prompt_score=0.9), said) as client:
        assert client.post(CHAT, json=chat(stream=stream)).status_code == 200


def test_a_key_stands_once_in_json_as_in_yaml(tmp_path: Path) -> None:
    """Of two thresholds the last one counted, and nobody was told."""
    from pillion.serve import read_policies

    path = tmp_path / "p.json"
    one = '{"probe": "p", "action": "block", "fail": "open", "threshold": 0.5, "threshold": 0.9}'
    path.write_text(f'{{"policies": [{one}]}}')
    with pytest.raises(ConfigError, match="'threshold' stands there twice"):
        read_policies(path)
