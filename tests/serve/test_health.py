"""An engine that fails is told of at once, rebuilt once, and then the process ends."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
from client import CHAT, application, chat, settings
from scripted import ScriptedEngine
from starlette.testclient import TestClient

from pillion.errors import RunError
from pillion.serve.run import Place, bind
from pillion.serve.run import serve as run


@dataclass
class Mortal(ScriptedEngine):
    """Fails when a test says so.

    Attributes:
        why: it has failed.
        mends: how often it can be rebuilt.
    """

    why: str | None = None
    mends: int = 1

    @property
    def failure(self) -> str | None:
        return self.why

    async def rebuild(self) -> None:
        if not self.mends:
            raise RunError("it is gone")
        self.mends, self.why = self.mends - 1, None


def wait_for(client: TestClient, path: str, word: str) -> int:
    """The status with which the word was told."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        answer = client.get(path)
        if answer.json()["status"] == word:
            return answer.status_code
        time.sleep(0.01)
    raise AssertionError(f"{path} never said {word}")


def test_an_engine_that_fails_is_rebuilt_and_readiness_tells_it_at_once() -> None:
    """`/ready` stayed 200 while every request was refused."""
    engine = Mortal()
    with application(engine) as client:
        assert client.get("/ready").status_code == 200
        engine.why = "a step failed"
        ready, health = client.get("/ready"), client.get("/health")
        assert (ready.status_code, ready.json()["status"]) == (503, "rebuilding")
        assert (health.status_code, health.json()["status"]) == (200, "rebuilding")
        assert wait_for(client, "/ready", "ready") == 200
        assert client.post(CHAT, json=chat()).status_code == 200


def test_an_engine_that_fails_again_soon_is_lost() -> None:
    engine = Mortal(mends=5)
    with application(engine) as client:
        ended = threading.Event()
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.health.on_end = ended.set
        engine.why = "once"
        wait_for(client, "/ready", "ready")
        engine.why = "twice"
        assert ended.wait(20)
        assert wait_for(client, "/health", "failed") == 503
        assert client.get("/ready").status_code == 503


def test_a_process_whose_engine_cannot_come_back_ends_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("pillion.serve.run.set_up", lambda: None)  # other tests read the log
    engine, place = Mortal(mends=0), Place(port=0)
    engine.why = None
    threading.Timer(1.0, lambda: setattr(engine, "why", "the device is gone")).start()
    with (
        bind(place) as bound,
        pytest.raises(RunError, match=r"the device is gone; it is gone\. St"),
    ):
        run(engine, settings(), place, bound)
