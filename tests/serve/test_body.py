"""Bodies that would hold up the server are refused before they are parsed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from client import CHAT, COMPLETE, MODEL, application, chat, listening, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from pillion.backends import tokenizer_lock
from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.runtime import PlainEngine
from pillion.serve.body import MOST_DEPTH, MOST_NAMES, MOST_VALUES, JsonCounts
from pillion.serve.refusal import Refused
from tiny_models import make_artefact, tiny_model, tiny_tokenizer

JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(st.sampled_from('"\\{}[]:,a')), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=3), inner)),
)


def count(content: object, depth: int = 1) -> tuple[int, int, int]:
    """Names and objects, commas and containers, and levels, the plain way."""
    if not isinstance(content, list | dict):
        return 0, 0, 0
    inner = list(content.values()) if isinstance(content, dict) else content
    parts = [count(one) for one in inner]
    names = len(content) + 1 if isinstance(content, dict) else 0
    return (
        names + sum(part[0] for part in parts),
        max(len(inner) - 1, 0) + 1 + sum(part[1] for part in parts),
        1 + max((part[2] for part in parts), default=0),
    )


@settings(deadline=None)
@given(JSON, st.booleans(), st.integers(1, 9))
def test_a_scan_counts_what_the_parser_finds_wherever_it_is_cut(
    content: object, ascii: bool, size: int
) -> None:
    text = json.dumps(content, ensure_ascii=ascii).encode()
    counts = JsonCounts()
    for begin in range(0, len(text), size):
        counts.add(text[begin : begin + size])
    assert (counts.names, counts.values, counts.depth) == count(content)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b'{"model": "m", max', "no JSON at character 15 (Expecting property name"),
        (b"", "The body is empty; send a JSON object."),
        (b"[]", "The body is no JSON object; send a JSON object."),
    ],
)
def test_a_body_that_is_no_object_is_told_what_it_is(
    client: TestClient, sent: bytes, words: str
) -> None:
    answer = client.post(CHAT, content=sent, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded"}, "'application/x-www-form-urlenc"),
        ({"Content-Type": "text/plain; charset=utf-8"}, "came as 'text/plain; charset=utf-8'"),
        ({"Content-Type": "text/json"}, "came as 'text/json'"),
        ({}, "came without a Content-Type"),
    ],
)
def test_json_under_another_content_type_is_told_the_header_and_not_that_it_is_no_json(
    client: TestClient, header: dict[str, str], words: str
) -> None:
    """`curl -d` sends JSON as a form unless told otherwise; that body is a JSON object."""
    answer = client.post(CHAT, content=json.dumps(chat()), headers=header)
    said = answer.json()["error"]
    assert answer.status_code == 400 and said["code"] == "invalid_content_type"
    assert words in said["message"] and "'Content-Type: application/json'" in said["message"]


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"]
)
def test_every_name_of_json_is_taken_for_it(client: TestClient, content_type: str) -> None:
    body, headers = json.dumps(chat(max_tokens=1)), {"Content-Type": content_type}
    assert client.post(CHAT, content=body, headers=headers).status_code == 200
    assert client.post(CHAT, content=b"[]", headers=headers).status_code == 400


def test_another_method_than_a_route_has_is_told_which(client: TestClient) -> None:
    answer = client.get(CHAT)
    assert answer.status_code == 405 and answer.headers["Allow"] == "POST"
    said = answer.json()["error"]
    assert said["message"] == f"{CHAT} is not answered to GET; send POST."
    assert said["code"] == "method_not_allowed"


def test_a_scan_refuses_too_much_of_anything() -> None:
    for piece, times in ((b'"a":1,', MOST_NAMES), (b"1,", MOST_VALUES), (b"[", MOST_DEPTH)):
        JsonCounts().add(piece * times)
        with pytest.raises(Refused):
            JsonCounts().add(piece * (times + 1))


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    backend = FakeBackend()
    with listening(PlainEngine(backend, [make_artefact("p", backend.identity)])) as address:
        yield address


MANY = 200_000
BIG = {
    "unknown keys": (CHAT, {**chat(), **{f"k{i}": i for i in range(2 * MANY)}}),
    "malformed messages": (CHAT, {"model": MODEL, "messages": [{}] * MANY}),
    "numbers as messages": (CHAT, {"model": MODEL, "messages": [1] * MANY}),
    "empty messages": (CHAT, chat() | {"messages": chat()["messages"] * MANY}),
    "token ids": (COMPLETE, {"model": MODEL, "prompt": [1] * 5 * MANY}),
    "fewer token ids": (COMPLETE, {"model": MODEL, "prompt": [1] * MANY}),
    "numbers as texts": ("/v1/classify", {"input": [1] * MANY}),
    "empty texts": ("/v1/classify", {"input": [""] * MANY}),
    "metadata": (CHAT, chat(metadata={f"k{i}": [] for i in range(MANY)})),
    "a long text": (CHAT, chat("x " * 3_000_000)),
}


@pytest.mark.parametrize("kind", BIG)
def test_big_bodies_are_refused_in_a_sentence(url: str, kind: str) -> None:
    """200,000 malformed messages held up the server for 19 seconds, half a million keys for 18."""
    path, content = BIG[kind]
    answer = httpx.post(url + path, json=content, timeout=60)
    assert answer.status_code in {400, 413}
    assert answer.json()["error"]["message"].endswith(".")


def test_nesting_and_half_surrogates_are_refused(url: str) -> None:
    kind = {"Content-Type": "application/json"}
    for body in (
        b"[" * 5000,
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
    ):
        answer = httpx.post(url + CHAT, content=body, headers=kind)
        assert answer.status_code == 400 and "error" in answer.json()


def test_threads_that_share_a_tokenizer_encode_as_one_does() -> None:
    """Texts are encoded several at a time."""
    tokenizer = tiny_tokenizer()
    texts = ["".join(chr(33 + (i * j) % 90) for j in range(5 + 40 * i)) for i in range(50)]
    wanted = [tokenizer(text)["input_ids"] for text in texts]
    barrier = threading.Barrier(8)

    def encode(_: int) -> list[list[int]]:
        barrier.wait()
        return [tokenizer(text)["input_ids"] for text in texts]

    with ThreadPoolExecutor(8) as pool:
        assert all(got == wanted for got in pool.map(encode, range(8)))


def test_a_short_text_does_not_wait_for_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread encoded all texts, in the order in which they came."""
    backend, free = FakeBackend(context_tokens=10_000), threading.Event()
    encode = backend.encode

    def slow(text: str, template: str) -> list[int]:
        if len(text) > 10_000:
            assert free.wait(60)
        return encode(text, template)

    monkeypatch.setattr(backend, "encode", slow)
    with listening(PlainEngine(backend)) as address, ThreadPoolExecutor(4) as pool:
        body = {"model": MODEL, "prompt": "x" * 20_000}
        long = [pool.submit(httpx.post, address + COMPLETE, json=body) for _ in range(4)]
        time.sleep(0.2)
        short = httpx.post(address + COMPLETE, json=body | {"prompt": "x", "max_tokens": 1})
        assert short.status_code == 200 and not any(one.done() for one in long)
        free.set()
        assert {one.result().status_code for one in long} == {400}


def test_the_tokenizer_is_copied_for_long_texts_before_anybody_sends_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first long text held up everybody for as long as a copy takes, a second and more."""
    copied: list[object] = []
    make = tokenizer_lock._copied  # type: ignore[reportPrivateUsage]
    monkeypatch.setattr(tokenizer_lock, "_copied", lambda one: (copied.append(one), make(one))[1])
    tokenizer = tiny_tokenizer()
    with application(PlainEngine(TransformersBackend(tiny_model(), tokenizer, "tiny"))) as client:
        assert copied == [tokenizer]
        long = "abc " * (tokenizer_lock.LONG_CHARS // 4 + 99)
        refused = refusal(client, COMPLETE, {"model": MODEL, "prompt": long})
        assert "context" in refused["message"]
        assert copied == [tokenizer]
