"""What a request is told of verdicts: headers, chosen probes and thresholds, past no policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from client import CHAT, COMPLETE, application, chat, refusal, settings, streamed
from scripted import ScriptedEngine
from starlette.testclient import TestClient

from pillion.errors import ConfigError
from pillion.serve import load_keys, make_policies
from pillion.serve.verdict_selection import verdict_headers


def asked(client: TestClient, path: str = CHAT, key: str = "", **facts: Any) -> Any:
    body = chat(**facts) if path == CHAT else {"model": "m", **facts}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def test_a_whole_answer_tells_verdicts_in_headers() -> None:
    with application(ScriptedEngine(prompt_score=0.875, scores=(0.25,))) as client:
        wanted = "yes;p=0.875;part=prompt, no;p=0.75;part=response"
        assert asked(client).headers["x-pillion-verdict-p"] == wanted
        for path, facts in ((COMPLETE, {"prompt": "a"}), ("/v1/responses", {"input": "a"})):
            assert asked(client, path, **facts).headers["x-pillion-verdict-p"] == wanted
    with application(ScriptedEngine(prompt_score=None, scores=(None,))) as client:
        assert "x-pillion-verdict-p" not in asked(client).headers


def test_headers_hold_any_name_and_label() -> None:
    one = {"label": ["a b", "ü,;"], "probs": {"a b": 0.5, "ü,;": 1 / 3, "c": 0.1}}
    none = {"label": None, "probs": None, "reason": "x"}
    told = verdict_headers({"prompt": {"p q": one, "r": none}, "response": {}})
    assert told == {
        "x-pillion-verdict-p%20q": "a%20b;p=0.5;part=prompt, %C3%BC%2C%3B;p=0.3333;part=prompt"
    }


def test_a_threshold_changes_what_is_told_and_no_policy() -> None:
    """The policy blocks from 0.5 on, where the probe decides so."""
    rule = {"probe": "p", "action": "block", "fail": "open", "refusal": "No."}
    chosen = settings(policies=make_policies({"policies": [rule]}))
    for score, label, content in ((0.6, "no", "No."), (0.45, "no", None), (0.8, "yes", "No.")):
        engine = ScriptedEngine(prompt_score=score, scores=(score,))
        with application(engine, chosen) as client:
            wanted = {"thresholds": {"p": 0.7}}
            body = asked(client, pillion=wanted).json()
            first, *_, last = streamed(client, pillion=wanted)
        told = body["verdicts"]["prompt"]["p"]
        assert (told["label"], told["threshold"]) == (label, 0.7)
        assert first["verdicts"]["prompt"]["p"] == told == last["verdicts"]["prompt"]["p"]
        said = body["choices"][0]["message"]["content"]
        assert said == content if content else said.startswith("one ")
        assert told["decision"] == ("block" if content else "allow")
    for told in (body["verdicts"], last["verdicts"]):
        assert told["response"] == {}  # nothing was answered


def test_verdicts_of_an_answer_are_told_as_wished(client: TestClient) -> None:
    wanted = {"probes": ["tags", "safe"], "thresholds": {"safe": 0.0}}
    body = asked(client, max_tokens=4, seed=1, pillion=wanted).json()
    everything = asked(client, max_tokens=4, seed=1).json()
    for part in ("prompt", "response"):
        assert set(body["verdicts"][part]) == {"safe", "tags"}
        assert body["verdicts"][part]["safe"]["label"] == "yes"
        assert body["verdicts"][part]["tags"] == everything["verdicts"][part]["tags"]
        probs = everything["verdicts"][part]["safe"]["probs"]
        assert body["verdicts"][part]["safe"]["probs"] == probs
    assert asked(client, max_tokens=2, pillion={"probes": []}).json()["verdicts"]["prompt"] == {}


@pytest.mark.parametrize(
    ("wanted", "status", "message"),
    [
        ({"probes": ["sfae"]}, 404, "known: safe, topic, tags"),
        ({"thresholds": {"nope": 0.5}}, 404, "known: safe"),
        ({"thresholds": {"topic": 0.5}}, 400, "is multiclass and has no single threshold"),
        ({"thresholds": {"safe": 1.5}}, 400, "less than or equal to 1"),
        ({"probe": ["safe"]}, 400, "'probe'"),
    ],
)
def test_what_is_wrong_with_a_wish_is_named(
    client: TestClient, wanted: Any, status: int, message: str
) -> None:
    error = refusal(client, CHAT, chat(pillion=wanted), status)
    assert message in error["message"] and error["param"].startswith("pillion")


def test_only_keys_that_may_choose_are_heard(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-plain\nsk-choosing choose name=c\nsk-admin admin\n")
    chosen = settings(keys=load_keys(file, {}))
    with application(ScriptedEngine(), chosen) as client:
        for key in ("sk-choosing", "sk-admin"):
            assert asked(client, key=key, pillion={"probes": []}).json()["verdicts"]["prompt"] == {}
        assert asked(client, key="sk-plain", pillion={}).json()["verdicts"]["prompt"] != {}
        refused = client.post(
            CHAT, json=chat(pillion={"probes": []}), headers={"authorization": "Bearer sk-plain"}
        )
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "choice_not_allowed"
    file.write_text("sk-a choose=1\n")
    with pytest.raises(ConfigError, match="such words as"):
        load_keys(file, {})
