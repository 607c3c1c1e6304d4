"""The recipe for Ray Serve: two replicas behind one address, one of them killed under load."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from pillion.backends.fake import FakeBackend
from pillion.runtime import PlainEngine
from pillion.serve import create_app

RECIPE = Path(__file__).parents[1] / "recipes" / "serve_on_ray.py"
CLIENTS = 6

pytestmark = [
    pytest.mark.ray,
    # Ray says in advance what a later version will do about GPUs; there are none here.
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


@pytest.fixture
def address() -> Iterator[str]:
    """Two replicas of the recipe's application behind one address."""
    ray = pytest.importorskip("ray", reason="needs pillion[ray]")
    serve = pytest.importorskip("ray.serve", reason="needs pillion[ray]")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    os.environ |= settings | {"RAY_worker_niceness": "0"}
    ray.init(
        num_cpus=2,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(runpy.run_path(str(RECIPE))["application"]({"model": "fake", "replicas": "2"}))
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@dataclass(frozen=True)
class Asked:
    """A request: when it was sent and answered, and whether the answer is right."""

    sent: float
    answered: float
    is_right: bool


def ask(address: str, number: int) -> Asked:
    sent = time.monotonic()
    body = {"model": "fake", "prompt": f"number {number}", "max_tokens": 48, "temperature": 0}
    try:
        answer = httpx.post(f"{address}/v1/completions", json=body, timeout=60)
        is_right = answer.status_code == 200 and "text" in answer.json()["choices"][0]
    except httpx.HTTPError:
        is_right = False
    return Asked(sent, time.monotonic(), is_right)


def replicas() -> list[psutil.Process]:
    """Processes of this machine's replicas that this test has started."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if one.name().startswith("ray::ServeReplica")]


def test_a_replica_that_is_killed_takes_only_its_own_requests_along(address: str) -> None:
    asked: list[Asked] = []
    stop = threading.Event()

    def load(client: int) -> None:
        number = 0
        while not stop.is_set():
            asked.append(ask(address, 1000 * client + number))
            number += 1

    clients = [threading.Thread(target=load, args=(client,)) for client in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        wait_for(lambda: len(asked) >= 4 * CLIENTS)
        victim, _ = replicas()
        killed = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        wait_for(lambda: sum(one.sent > killed for one in asked) >= 10 * CLIENTS)
        # Serve has seen that one is missing, and has started another.
        wait_for(lambda: len(replicas()) == 2)
    finally:
        stop.set()
        for client in clients:
            client.join()
    failed = [one for one in asked if not one.is_right]
    assert len(failed) <= CLIENTS
    assert all(one.sent <= killed <= one.answered for one in failed)
    assert httpx.get(f"{address}/ready").json() == {"status": "ready"}


def test_a_replica_whose_engine_is_not_ready_is_not_healthy() -> None:
    """The recipe asked for what the server no longer had, so that no replica ever came up."""
    pytest.importorskip("ray.serve", reason="needs pillion[ray]")
    check = runpy.run_path(str(RECIPE))["Server"].check_health
    server = SimpleNamespace(served=create_app(PlainEngine(FakeBackend())))
    with pytest.raises(RuntimeError, match="not ready"):
        check(server)
    with TestClient(server.served):
        check(server)


def wait_for(is_true: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.02)
