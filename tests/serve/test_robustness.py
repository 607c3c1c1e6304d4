"""Hostile and unlucky clients on a real socket: the others are answered meanwhile."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from collections.abc import Generator
from urllib.parse import urlsplit

import httpx
import pytest
from client import CHAT, chat, listening, settings
from scripted import ScriptedEngine

from pillion.backends.fake import FakeBackend
from pillion.runtime import PlainEngine
from pillion.serve import Limits
from tiny_models import make_artefact


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    backend = FakeBackend(context_tokens=200_000)
    with listening(PlainEngine(backend, [make_artefact("p", backend.identity)])) as address:
        yield address


def answered(url: str) -> bool:
    """Whether another client gets an answer."""
    answer = httpx.post(url + CHAT, json=chat(max_tokens=2), timeout=60)
    return answer.status_code == 200 and "p" in answer.json()["verdicts"]["prompt"]


def connect(url: str) -> socket.socket:
    place = urlsplit(url)
    assert place.hostname and place.port
    return socket.create_connection((place.hostname, place.port), 30)


def send(connection: socket.socket, body: bytes, length: int | None = None) -> None:
    """A request with a JSON body, of which only a part may come."""
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)


def test_a_prompt_of_100_000_characters_is_read(url: str) -> None:
    body = chat("a word, " * 12_500, max_tokens=2)
    answer = httpx.post(url + CHAT, json=body, timeout=120)
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] == 100_002
    assert answered(url)


def test_a_body_of_10_megabytes_is_refused(url: str) -> None:
    body = json.dumps(chat("x" * 10_000_000)).encode()
    with connect(url) as connection:
        # The answer may come, and the connection end, before all of it is sent.
        with contextlib.suppress(ConnectionError):
            send(connection, body)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert answered(url)


def test_a_body_that_never_ends_keeps_nobody_else_waiting(url: str) -> None:
    with connect(url) as connection:
        send(connection, b'{"model": ', 500)
        assert answered(url)


def test_a_thousand_idle_connections_keep_nobody_waiting(url: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2500:
        pytest.skip("this user may not open 2,500 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2500), hard))
    with contextlib.ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(connect(url))
            if number % 2:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
        assert answered(url)


def test_a_slow_reader_keeps_nobody_waiting_and_is_let_go() -> None:
    engine = ScriptedEngine(words=["x" * 50_000] * 490)
    slow = settings(limits=Limits(send_seconds=0.5))
    with listening(engine, slow) as address, connect(address) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        send(connection, json.dumps(chat(stream=True)).encode())
        assert answered(address)
        until = time.monotonic() + 60
        while len(engine.closed) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        # The engine is free again, though the client never went away.
        assert len(engine.closed) == 2


def test_a_client_that_hangs_up_before_its_answer_frees_the_engine() -> None:
    engine = ScriptedEngine(words=["a "] * 490, seconds=0.05)
    with listening(engine) as address:
        with connect(address) as connection:
            send(connection, json.dumps(chat()).encode())
            while not engine.submitted:
                time.sleep(0.01)
        until = time.monotonic() + 30
        while not engine.closed and time.monotonic() < until:
            time.sleep(0.01)
        assert engine.closed == [engine.submitted[0].id]
