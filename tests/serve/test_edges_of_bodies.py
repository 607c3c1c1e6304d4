"""What stands at the edge of JSON and of its numbers is refused by name, and never fails later."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from client import CHAT, application, chat, refusal
from starlette.testclient import TestClient

from chat_templates import VOCAB, chat_tokenizer
from pillion.backends.transformers import TransformersBackend
from pillion.runtime import PlainEngine
from pillion.serve.body import MOST_DEPTH
from tiny_models import make_artefact, tiny_model

JSON_BODY = {"Content-Type": "application/json"}
RESPONSES, CLASSIFY = "/v1/responses", "/v1/classify"
SURROGATE = '{"city": "\\ud800"}'
"""Half of a surrogate pair, spelled inside of a string: the body itself is whole text."""


def nested(levels: int) -> str:
    return '{"a": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


@pytest.fixture(scope="module")
def hermes() -> Generator[TestClient]:
    """With a tokenizer, and a template that writes the calls of tools."""
    name = "hermes-tools"
    backend = TransformersBackend(tiny_model(vocab=VOCAB), chat_tokenizer(name), name)
    probe = make_artefact("t", backend.identity, template="chat", scope="tool")
    with application(PlainEngine(backend, [probe])) as running:
        yield running


def calling(arguments: str) -> list[dict[str, Any]]:
    """A conversation in which an earlier answer has called a tool."""
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "abc123XYZ", "type": "function", "function": function}
    return [
        {"role": "user", "content": "Warm?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc123XYZ", "content": "17"},
    ]


@pytest.mark.parametrize("arguments", [SURROGATE, nested(MOST_DEPTH + 1), nested(900)])
@pytest.mark.parametrize("path", [CHAT, CLASSIFY])
def test_arguments_that_no_template_can_write_are_refused(
    path: str, arguments: str, hermes: TestClient
) -> None:
    """They passed as text, and the template or the tokenizer failed on them: a 500."""
    body: dict[str, Any] = {"messages": calling(arguments)}
    body |= {"model": "m", "max_tokens": 1} if path == CHAT else {"template": "chat"}
    error = refusal(hermes, path, body)
    assert error["param"].endswith("tool_calls.0.function.arguments")


def test_arguments_as_deep_as_a_body_are_taken(hermes: TestClient) -> None:
    body = {"model": "m", "max_tokens": 1, "messages": calling(nested(MOST_DEPTH))}
    assert hermes.post(CHAT, json=body).status_code == 200


def test_calls_of_responses_are_checked_alike(client: TestClient) -> None:
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": SURROGATE}
    error = refusal(client, RESPONSES, {"model": "m", "input": [call]})
    assert "text of a JSON object" in error["message"]


FORM = {"type": "json_schema", "name": "a", "schema": {"minimum": "NUMBER"}}
FUNCTION = {"name": "f", "parameters": {"minimum": "NUMBER"}}


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
@pytest.mark.parametrize(
    ("path", "facts", "param"),
    [
        (RESPONSES, {"metadata": {"a": ["NUMBER"]}}, "metadata"),
        (RESPONSES, {"tools": [{"type": "function", **FUNCTION}]}, "tools.0.parameters"),
        (RESPONSES, {"text": {"format": FORM}}, "text.format.schema"),
        (CHAT, {"metadata": {"a": {"b": "NUMBER"}}}, "metadata"),
        (
            CHAT,
            {"tools": [{"type": "function", "function": FUNCTION}]},
            "tools.0.function.parameters",
        ),
    ],
)
def test_numbers_that_json_has_not_are_refused_in_free_objects_too(
    path: str, facts: dict[str, Any], param: str, number: str, client: TestClient
) -> None:
    """A response that told them again was no JSON: a 500, or a stream that no client can read."""
    asked = {"model": "m", "input": "hello"} if path == RESPONSES else chat(max_tokens=1)
    body = json.dumps({**asked, **facts}).replace('"NUMBER"', number)
    answer = client.post(path, content=body, headers=JSON_BODY)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and "finite" in error["message"]


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        # Bytes of UTF-8's form that spell half of a surrogate pair: no escape gives them away.
        (json.dumps(chat("a@b")).encode().replace(b"@", b"\xed\xa0\x80"), "invalid_json", "UTF-8"),
        (json.dumps(chat("é"), ensure_ascii=False).encode("latin-1"), "invalid_json", "UTF-8"),
        # In UTF-16 a letter may look like a quote or a bracket to who counts bytes.
        (json.dumps(chat("x")).encode("utf-16"), "invalid_json", "UTF-8"),
        (json.dumps(chat("x")).encode("utf-16-le"), "invalid_json", "no JSON"),
        (b'{"model": "m", "max_tokens": ' + b"9" * 5000 + b"}", "invalid_value", "4,300 digits"),
    ],
    ids=["surrogate", "latin-1", "utf-16", "utf-16 without a mark", "digits"],
)
def test_a_body_is_text_in_utf_8_with_numbers_that_can_be_read(
    body: bytes, code: str, said: str, client: TestClient
) -> None:
    answer = client.post(CHAT, content=body, headers=JSON_BODY)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == code and said in error["message"]


def test_a_body_may_begin_with_the_mark_of_utf_8(client: TestClient) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(chat("x", max_tokens=1)).encode()
    assert client.post(CHAT, content=body, headers=JSON_BODY).status_code == 200


def test_a_token_has_one_bias(client: TestClient) -> None:
    """Of 7 and 07 the last one counted, and the other was forgotten."""
    error = refusal(client, CHAT, chat(logit_bias={"7": 5, "07": -5}))
    assert error["param"] == "logit_bias" and "twice" in error["message"]
