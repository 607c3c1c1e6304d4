"""Pillion's own server on vLLM: the same command, policies and artefacts as with any engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from riding import ProbedModel

from engine_server import wait_for

pytestmark = pytest.mark.vllm


class Server(NamedTuple):
    """One that runs."""

    url: str
    process: subprocess.Popen[str]
    log: Path


@pytest.fixture(scope="module")
def own(tiny: ProbedModel, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    folder = tmp_path_factory.mktemp("own")
    policy = "policies:\n  - {probe: labels, on: prompt, action: annotate, label: a}\n"
    (folder / "policy.yaml").write_text(policy, encoding="utf-8")
    command = [sys.executable, "-m", "pillion", "serve", "--engine", "vllm", "--port", "0"]
    command += ["--model", str(tiny.folder), "--dtype", "float32", "--json"]
    command += ["--policy", str(folder / "policy.yaml"), "--cache-tokens", "4096"]
    command += [word for path in tiny.folders for word in ("--probe", str(path))]
    plugins = {"VLLM_PLUGINS": "pillion_cpu", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    plugins["PILLION_CACHE"] = str(folder / "cache")
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            command,
            env=os.environ | plugins,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        assert line, (folder / "log").read_text(encoding="utf-8")[-3000:]
        url = json.loads(line)["url"]
        wait_for(url, server, folder / "log")
        yield Server(url, server, folder / "log")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
        server.stdout.close()


def ask(own: Server, tiny: ProbedModel, **body: Any) -> Any:
    import httpx

    asked: dict[str, Any] = {"model": str(tiny.folder), "max_tokens": 6, "temperature": 0}
    return httpx.post(f"{own.url}/v1/completions", json=asked | body, timeout=300)


def test_its_verdicts_are_those_of_whole_texts(tiny: ProbedModel, own: Server) -> None:
    body = ask(own, tiny, prompt="hello there").json()
    prompt = tiny.backend.encode("hello there", "raw")
    answer = tiny.backend.encode(body["choices"][0]["text"], "raw")
    for part, begin, end in (
        ("prompt", 0, len(prompt)),
        ("response", len(prompt), len(prompt) + body["verdicts"]["response_tokens"]),
    ):
        wanted = tiny.logits(prompt + answer, begin, end)["binary"].sigmoid().item()
        told = body["verdicts"][part]["binary"]["probs"]["yes"]
        assert told == pytest.approx(wanted, abs=1e-5)
    assert body["verdicts"]["response_tokens"] == 5


def test_a_token_that_the_model_has_not_is_refused(tiny: ProbedModel, own: Server) -> None:
    refused = ask(own, tiny, prompt=[1, 96])
    assert refused.status_code == 400 and "token id 96" in refused.text
    assert ask(own, tiny, prompt=[1, 95]).status_code == 200


def test_an_engine_that_has_died_ends_the_process(tiny: ProbedModel, own: Server) -> None:
    """Last in this file: nothing is there afterwards."""
    import httpx
    import psutil

    assert httpx.get(f"{own.url}/ready", timeout=60).status_code == 200
    children = psutil.Process(own.process.pid).children(recursive=True)
    (core,) = (child for child in children if "EngineCore" in " ".join(child.cmdline()))
    core.kill()
    told = list[int]()
    for _ in range(6000):
        if own.process.poll() is not None:
            break
        with contextlib.suppress(httpx.HTTPError):
            told.append(httpx.get(f"{own.url}/ready", timeout=5).status_code)
        time.sleep(0.01)
    assert own.process.wait(60) not in (0, None)
    log = own.log.read_text(encoding="utf-8")
    assert "vLLM's processes have died" in log and "Start the server again" in log
    # How long it still answers is chance; once it has said no, it does not say yes again.
    assert {*told} <= {200, 503} and told == sorted(told)
