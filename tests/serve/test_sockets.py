"""Clients that are slow or send too much before a request begins: their sockets close."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator

import httpx
import pytest
from client import CHAT, chat, listening, settings
from scripted import ScriptedEngine
from test_robustness import connect

from pillion.serve import Limits, sockets
from pillion.serve.sockets import PatientProtocol


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    monkeypatch.setattr(sockets, "HEADER_SECONDS", 0.5)
    chosen = settings(limits=Limits(body_seconds=0.5))
    with listening(ScriptedEngine(seconds=0.2), chosen, http=PatientProtocol) as address:
        yield address


def closed(connection: socket.socket) -> bytes:
    """What came before the server closed the connection."""
    connection.settimeout(20)
    got = b""
    while piece := connection.recv(4096):
        got += piece
    return got


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: local"])
def test_headers_that_do_not_come_close_the_connection(url: str, sent: bytes) -> None:
    with connect(url) as connection:
        connection.sendall(sent)
        assert closed(connection) == b""


def test_headers_that_drip_in_close_the_connection(url: str) -> None:
    with connect(url) as connection:
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < 20:
                connection.sendall(b"G")
                time.sleep(0.05)


def test_headers_without_end_are_cut_off(url: str) -> None:
    with connect(url) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(10_000):
            connection.sendall(f"X-{number}: {'y' * 100}\r\n".encode())
        closed(connection)
        raise ConnectionError


def test_a_body_that_does_not_come_is_told_so(url: str) -> None:
    with connect(url) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 500\r\n\r\n{{".encode())
        assert closed(connection).startswith(b"HTTP/1.1 408")


def test_an_answer_may_take_longer_than_headers_and_the_connection_goes_on(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(2):
            assert client.post(CHAT, json=chat()).status_code == 200
