"""Parts of the server apart from any request: refusals, logs, quotas, numbers, judges."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from pillion.core import Turn, Verdict
from pillion.errors import ArtefactError, ConfigError, MismatchError, PillionError, StateError
from pillion.policies import JudgeServer, Upstream
from pillion.runtime import EngineStats
from pillion.serve import load_keys
from pillion.serve.body_faults import BODIES, body_refusal
from pillion.serve.keys import LOCAL, Caller, Keys, Quota
from pillion.serve.logs import JsonFormatter, Log
from pillion.serve.metrics import Metrics
from pillion.serve.parameters import Neutral, joined
from pillion.serve.quotas import Account, Accounts, Bucket
from pillion.serve.refusal import Refused, error_body, refusal_of
from pillion.serve.request_context import RequestContext
from pillion.serve.run import is_loopback
from pillion.serve.turns import num_chars, transcript
from pillion.serve.upstream import judge_request, read_answer, upstream_request

JSON = "application/json"


# --- refusals


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConfigError("x."), 400, "invalid_value"),
        (ArtefactError("x."), 400, "invalid_value"),
        (MismatchError("x."), 409, "probe_mismatch"),
        (StateError("x."), 503, "engine_error"),
        (PillionError("x."), 500, "server_error"),
    ],
)
def test_an_error_of_ours_has_its_status_and_one_that_may_pass_says_when(
    error: PillionError, status: int, code: str
) -> None:
    refused = refusal_of(error)
    assert (refused.status_code, refused.code, refused.detail) == (status, code, "x.")
    assert ("Retry-After" in (refused.headers or {})) == (status == 503)
    assert refusal_of(error, 418).status_code == 418


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (503, "server_error"),
    ],
)
def test_the_type_of_an_error_follows_from_its_status(status: int, kind: str) -> None:
    assert error_body(status, "m", "c", "p") == {
        "error": {"message": "m", "type": kind, "param": "p", "code": "c"}
    }


def test_half_a_surrogate_pair_in_a_sentence_does_not_break_the_answer() -> None:
    body = error_body(400, "No probe 'a\ud83d'.")
    assert json.dumps(body, ensure_ascii=False).encode() and "\\ud83d" in body["error"]["message"]


def fault(kind: str, *loc: Any, msg: str = "", **more: Any) -> dict[str, Any]:
    return {"type": kind, "loc": ("body", *loc), "msg": msg, **more}


@pytest.mark.parametrize(
    ("given", "message", "code", "param"),
    [
        (fault("missing"), "The body is empty; send a JSON object.", "missing_parameter", None),
        (
            fault("missing", "messages", 0, "role", msg="Field required"),
            "messages.0.role is missing, and required; give it.",
            "missing_parameter",
            "messages.0.role",
        ),
        (
            fault("int_type", "n", msg="Input should be a valid integer"),
            "n should be a valid integer.",
            "invalid_value",
            "n",
        ),
        (
            fault("too_short", "a", msg="List should have at least 1 item after validation, not 0"),
            "a should have at least 1 item, not 0.",
            "invalid_value",
            "a",
        ),
        (
            fault("value_error", "n", msg="Value error, give fewer"),
            "n: give fewer.",
            "invalid_value",
            "n",
        ),
        (
            fault("value_error", msg="Value error, give one"),
            "The body: give one.",
            "invalid_value",
            None,
        ),
        (
            fault("unsupported", "audio", msg="leave it out"),
            "audio: leave it out.",
            "unsupported_parameter",
            "audio",
        ),
        (
            fault("string_type", "stop", "list[str]", 0, msg="Input should be a valid string"),
            "stop.0 should be a valid string.",
            "invalid_value",
            "stop.0",
        ),
    ],
)
def test_a_fault_of_a_body_is_a_sentence_that_begins_with_its_parameter(
    given: dict[str, Any], message: str, code: str, param: str | None
) -> None:
    refused = body_refusal("/v1/chat/completions", JSON, given)
    assert (refused.status_code, refused.detail, refused.code) == (400, message, code)
    assert refused.param == param


def test_an_unknown_parameter_is_told_the_ones_of_its_place() -> None:
    def said(route: str, *loc: Any) -> str:
        return body_refusal(route, JSON, fault("extra_forbidden", *loc)).detail

    assert "Did you mean 'max_tokens'" in said("/v1/chat/completions", "max_token")
    assert "known: content" not in said("/v1/chat/completions", "max_token")
    assert "Did you mean 'content'" in said("/v1/chat/completions", "messages", 3, "contents")
    assert "Did you mean 'strict'" in said("/v1/responses", "tools", 0, "strit")
    assert len(said("/v1/classify", "x" * 5000)) < 300, "a name is quoted in part"
    for route, body in BODIES.items():
        assert all(name in said(route, "zzz") for name in body.model_fields)


# --- keys and quotas


def test_keys_of_the_environment_have_their_role_and_a_name_that_tells_nothing() -> None:
    keys = load_keys(None, {"PILLION_API_KEYS": " a ,, b", "PILLION_ADMIN_KEYS": "root"})
    user, admin = keys.caller("a"), keys.caller("root")
    assert user is not None and user.role == "user" and not user.chooses
    assert admin is not None and admin.role == "admin" and admin.chooses
    assert user.name != "a" and keys.caller("b") != user
    assert keys.caller("") is None and keys.caller("A") is None and keys.caller("a ") is None
    assert "root" not in repr(keys)


def test_without_keys_there_are_none_and_this_machine_may_do_everything() -> None:
    assert not load_keys(None, {}) and not load_keys(None, {"PILLION_API_KEYS": " , "})
    assert not Keys() and LOCAL.role == "admin" and LOCAL.chooses and LOCAL.quota == Quota()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("# only a comment\n\n", "holds no key; write one a line"),
        ("key one two", "line 1: one key is wanted.*Unknown word 'one'"),
        ("# c\nkey admin=yes", "line 2: one key is wanted"),
        ("key requests", "line 1: one key is wanted"),
        ("key requests=-1", "requests=-1 is no number above 0"),
        ("key requests=²", "is no number above 0"),
        ("key name=", "name= is no name"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=why):
        load_keys(path, {})


def test_a_file_of_keys_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(tmp_path / "none", {})
    (tmp_path / "keys").write_bytes(b"\xff\xfe key")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(tmp_path / "keys", {})


def test_keys_of_one_name_share_an_account() -> None:
    accounts = Accounts()
    one, same = (accounts.of(Caller("web", "user", Quota(requests=2))) for _ in range(2))
    assert one is same and accounts.of(Caller("other")) is not one


def test_a_bucket_without_an_end_never_waits_and_a_full_one_does_not_overflow() -> None:
    now = [0.0]
    assert Bucket(None, lambda: now[0]).wait(10**9) == 0
    bucket = Bucket(60, lambda: now[0])
    now[0] = 3600
    assert bucket.wait(60) == 0 and bucket.wait(61) == pytest.approx(1)
    bucket.take(90)
    assert bucket.wait(1) == pytest.approx(31), "a debt has to flow in first"


def test_a_request_that_fails_is_no_longer_in_flight() -> None:
    account = Account(Caller("web", "user", Quota(in_flight=1)))
    with pytest.raises(KeyError), account.request():
        raise KeyError
    with account.request(), pytest.raises(Refused, match="has 1 requests in flight") as refused:
        account.request().__enter__()
    assert refused.value.headers == {"Retry-After": "1"} and refused.value.code == "quota_exceeded"


# --- logs


def logged(log: Log, caplog: pytest.LogCaptureFixture, **facts: Any) -> dict[str, Any]:
    with caplog.at_level(logging.INFO):
        log("request", **facts)
    return json.loads(JsonFormatter().format(caplog.records[-1]))


def test_texts_are_in_the_log_only_where_they_may_be(caplog: pytest.LogCaptureFixture) -> None:
    texts = {"prompt": "a secret"}
    line = logged(Log(), caplog, texts=texts, status=200)
    assert line["event"] == "request" and line["status"] == 200 and line["level"] == "info"
    assert "prompt" not in line
    assert logged(Log(texts=True), caplog, texts=texts, status=200)["prompt"] == "a secret"


def test_the_words_of_an_unexpected_error_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They may quote what a client sent."""
    try:
        raise ValueError("a secret")
    except ValueError as error:
        for texts in (False, True):
            Log(texts).failure(error, route="/x")
        plain, full = (JsonFormatter().format(one) for one in caplog.records[-2:])
    assert "a secret" not in plain and json.loads(full)["message"] == "a secret"
    told = json.loads(plain)
    assert told["error"] == "ValueError" and told["route"] == "/x" and told["level"] == "error"
    assert told["at"][-1].startswith("test_server_parts.py:")


def test_a_record_of_a_library_says_the_kind_of_its_error_and_nothing_of_its_words() -> None:
    try:
        raise ValueError("a secret")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f.py", 1, "failed", None, sys.exc_info())
    line = JsonFormatter().format(record)
    assert json.loads(line)["error"] == "ValueError" and "a secret" not in line
    assert "\n" not in line


# --- numbers


def test_each_label_of_a_probe_is_counted_and_of_two_that_exclude_each_other_one() -> None:
    """Of a multi-label probe of two labels the first was left out of the scores."""
    metrics = Metrics(EngineStats, lambda: 3)
    metrics.count_verdicts(
        "prompt",
        {
            "safe": Verdict("safe", "yes", {"no": 0.2, "yes": 0.8}, 0.5, ("yes",)),
            "tags": Verdict("tags", "a,b", {"a": 0.9, "b": 0.7}, None, ("a", "b")),
            "topic": Verdict("topic", "x", {"x": 0.6, "y": 0.3, "z": 0.1}, None, ("x",)),
        },
    )
    text = metrics.text().decode()
    lines = [line for line in text.splitlines() if line.startswith("pillion_score_count{")]
    scored = {tuple(part.split('"')[1] for part in line.split(",")[:3]) for line in lines}
    assert {(label, probe) for label, _, probe in scored} == {
        ("yes", "safe"),
        ("a", "tags"),
        ("b", "tags"),
        ("x", "topic"),
        ("y", "topic"),
        ("z", "topic"),
    }
    verdicts = [line for line in text.splitlines() if line.startswith("pillion_verdicts_total{")]
    assert len(verdicts) == 4 and all(line.endswith(" 1.0") for line in verdicts)
    assert "pillion_queue 3.0" in text


def test_a_request_notes_what_was_said_and_leaves_out_why() -> None:
    context = RequestContext()
    told = {"p": {"label": "a", "probs": {"a": 1.0}, "decision": "allow", "threshold": 0.5}}
    context.note("prompt", told)
    context.note("prompt", told)
    kept = {"p": {"label": "a", "probs": {"a": 1.0}, "decision": "allow"}}
    assert context.facts == {"prompt_verdicts": [kept, kept]}
    assert context.caller == "local" and context.seconds >= 0
    assert context.seconds_left == float("inf")
    assert RequestContext().id != context.id


# --- values and turns


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) == local


def test_a_value_that_asks_for_nothing_is_of_its_own_type() -> None:
    neutral = Neutral(0, [])
    assert [neutral._check(value) for value in (None, 0, [])] == [None, 0, []]
    for value in (False, 0.0, [1], "0"):
        with pytest.raises(Exception, match=r"leave it out, or give null or 0 or \[\]"):
            neutral._check(value)


def test_parts_of_a_message_are_one_text_and_others_are_refused() -> None:
    def text(content: Any) -> Any:
        return joined(content, ("text",), ("type", "text"), "only text", "a {kind} part")

    assert text("as it is") == "as it is" and text(5) == 5
    assert text([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "ab"
    for bad, why in (
        ([{"type": "image"}], "only text"),
        (["a"], "only text"),
        ([{"type": "text", "text": 5}], "only text"),
        ([{"type": "text", "text": "a", "size": 1}], "a text part has no 'size'"),
    ):
        with pytest.raises(Exception, match=why):
            text(bad)


def test_calls_count_as_characters_and_stand_in_a_transcript() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}
    turns = (Turn("user", "hi"), Turn("assistant", "", {"tool_calls": [call]}), Turn("tool", "ok"))
    assert num_chars("four") == 4
    assert num_chars(turns) > len("hi") + len("ok") + len("look")
    said = transcript(turns).splitlines()
    assert said[0] == "user: hi" and said[2] == "tool: ok"
    assert said[1].startswith("assistant: ") and "look" in said[1] and "x" in said[1]


# --- other servers


def test_a_judge_is_sent_the_question_of_its_label_and_the_text_and_nothing_else() -> None:
    judge = JudgeServer(url="http://j/v1", model="big", question="Is it {label}? {x}", max_tokens=3)
    body = judge_request(judge, "toxic", "a {label}")
    assert body["messages"] == [
        {"role": "system", "content": "Is it toxic? {x}"},
        {"role": "user", "content": "a {label}"},
    ]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("big", 3, 0)


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ("Yes", "yes"),
        (" no.", "no"),
        ("NO, it does not", "no"),
        ("**Yes**: it is", "yes"),
        ("Not sure", "failed"),
        ("None of it", "failed"),
        ("yes/no", "failed"),
        ("maybe yes", "failed"),
        ("", "failed"),
        (None, "failed"),
    ],
)
def test_a_judge_that_says_neither_yes_nor_no_has_failed(said: str | None, reply: str) -> None:
    assert read_answer({"choices": [{"message": {"content": said}}]}) == reply


@pytest.mark.parametrize("body", [None, [], {}, {"choices": []}, {"choices": [{}]}, {"choices": 3}])
def test_an_answer_of_another_shape_is_none(body: Any) -> None:
    assert read_answer(body) == "failed"


def test_another_server_is_asked_for_its_own_model() -> None:
    server = Upstream(url="http://u/v1", model="large")
    body = {"model": "embedded", "messages": []}
    assert upstream_request(server, body) == {"model": "large", "messages": []}
    assert body["model"] == "embedded"
