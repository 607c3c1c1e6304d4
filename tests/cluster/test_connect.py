"""Addresses at which no cluster answers: one clear sentence, soon, before anything is loaded."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pillion.cluster import connect
from pillion.errors import ConfigError


def refusal(address: str) -> str:
    with pytest.raises(ConfigError) as raised, connect(address):
        pass
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install pillion[ray]" in refusal("auto")


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that answers, but does not speak Ray's protocol."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                time.sleep(0.2)

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.ray
class TestWithRay:
    """These need the package, but no cluster."""

    def test_an_address_without_a_server_is_said_at_once(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        sentence = refusal(f"127.0.0.1:{port}")
        assert f"No Ray cluster answers at 127.0.0.1:{port} (Connection refused)" in sentence

    def test_somebody_else_at_an_address_is_not_taken_for_ray(self, silent_server: int) -> None:
        assert "what answers is not Ray" in refusal(f"127.0.0.1:{silent_server}")

    @pytest.mark.parametrize("address", ["nonsense", "host", "host:", ":6379", "host:port"])
    def test_what_is_no_address_is_refused(self, address: str) -> None:
        assert "HOST:PORT" in refusal(address)

    def test_an_address_of_rays_client_is_refused_with_a_way_out(self) -> None:
        assert "address auto" in refusal("ray://head:10001")
