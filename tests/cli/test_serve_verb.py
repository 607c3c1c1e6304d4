"""`pillion serve`: a real process, asked over a socket and ended by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from program import Refused, Run

FAKE = ("--model", "fake")


class Server:
    """A server in a process of its own."""

    def __init__(self, *words: str | Path) -> None:
        command = [sys.executable, "-m", "pillion", "serve", *FAKE, "--port", "0", "--json"]
        self.process = subprocess.Popen(
            [*command, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        self.facts = json.loads(self.process.stdout.readline())
        self.client = httpx.Client(
            base_url=self.facts["url"],
            timeout=30,
            transport=httpx.HTTPTransport(retries=10),
        )

    def ask(self, **facts: Any) -> httpx.Response:
        body = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], **facts}
        return self.client.post("/v1/chat/completions", json=body)

    def end(self) -> tuple[int, list[Any]]:
        """The exit code, and the lines of the log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=60)
        self.client.close()
        return self.process.returncode, [json.loads(line) for line in log.splitlines()]


def test_a_server_answers_and_finishes_what_is_in_flight_before_it_ends(probe: Path) -> None:
    server = Server("--probe", f"tone={probe}")
    assert server.facts["probes"] == ["tone"]
    assert server.client.get("/ready").json() == {"status": "ready"}
    body = server.ask(max_tokens=4).json()
    assert body["verdicts"]["prompt"]["tone"]["label"] in {"fine", "poor"}

    begun, text = threading.Event(), list[str]()

    def read() -> None:
        facts = {"model": "fake", "stream": True, "max_tokens": 300, "temperature": 2}
        turns = {"messages": [{"role": "user", "content": "hello"}]}
        with server.client.stream("POST", "/v1/chat/completions", json=facts | turns) as answer:
            for line in answer.iter_lines():
                begun.set()
                text.append(line)

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(30)
    code, log = server.end()
    reader.join(30)
    assert code == 0
    assert [line for line in text if line][-1] == "data: [DONE]"
    events = [line["event"] for line in log]
    assert "draining" in events and "failure" not in events
    assert [line["status"] for line in log if line["event"] == "request"] == [200, 200]


def test_what_cannot_be_served_is_one_sentence(
    refused: Refused, probe: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[policies]]\nprobe = "mod"\naction = "annotate"\n')
    words = ("serve", *FAKE, "--probe", probe)
    assert "Did you mean 'mood'" in refused(*words, "--policy", policy)
    assert "there is no API key" in refused(*words, "--host", "0.0.0.0")
    assert "cannot listen at 192.0.2.1" in refused(
        "serve", *FAKE, "--host", "192.0.2.1", "--api-key-file", _key(tmp_path)
    )
    assert "Unknown engine 'vlm'" in refused("serve", *FAKE, "--engine", "vlm")
    assert "is no folder" in refused("serve", *FAKE, "--probe-folder", tmp_path / "none")
    assert "Limit seconds" in refused("serve", *FAKE, "--max-seconds", "0")
    assert "not there" in refused("serve", *FAKE, "--probe", tmp_path / "none")


def _key(folder: Path) -> Path:
    (folder / "keys").write_text("sk-a\n")
    return folder / "keys"


def test_the_help_names_every_route(run: Run) -> None:
    shown = run("serve", "--help").out
    for word in ("/v1/chat/completions", "/v1/classify", "/metrics", "--policy", "--dry-run"):
        assert word in shown


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_taken_port_is_told_before_the_model_is_loaded(refused: Refused, host: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "cannot listen" in refused("serve", *FAKE, "--host", host, "--port", str(port))
