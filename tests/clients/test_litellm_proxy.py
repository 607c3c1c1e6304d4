"""LiteLLM's proxy in front of the server, by the recipe as it is written."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from environments import python_of, variables

pytestmark = pytest.mark.clients

RECIPE = Path(__file__).parents[2] / "recipes" / "litellm.yaml"
START_SECONDS = 180
KEYS = {"PILLION_KEY": "sk-inner", "LITELLM_MASTER_KEY": "sk-outer"}


@pytest.fixture(scope="module")
def proxy(served: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    folder = tmp_path_factory.mktemp("proxy")
    recipe = RECIPE.read_text()
    assert recipe.count("http://127.0.0.1:8000/v1") == 4
    (folder / "litellm.yaml").write_text(recipe.replace("http://127.0.0.1:8000/v1", served))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    litellm = python_of("litellm_proxy").with_name("litellm")
    words = ["--config", "litellm.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [litellm, *words],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**variables(), **KEYS},
        )
    try:
        key = {"Authorization": "Bearer sk-outer"}
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers=key, timeout=60) as client:
            began = time.monotonic()
            while not _lives(client):
                told = (folder / "log").read_text()
                assert process.poll() is None, told
                assert time.monotonic() - began < START_SECONDS, told
                time.sleep(1)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _lives(client: httpx.Client) -> bool:
    try:
        return client.get("/health/liveliness").status_code == 200
    except httpx.TransportError:
        return False


def chat(text: str, **facts: Any) -> dict[str, Any]:
    return {"model": "smollm", "messages": [{"role": "user", "content": text}], **facts}


def streamed(client: httpx.Client, path: str) -> list[Any]:
    answer = client.post(path, json=chat("hello", stream=True))
    assert answer.status_code == 200, answer.text
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_whole_answers_keep_verdicts(proxy: httpx.Client) -> None:
    answer = proxy.post("/v1/chat/completions", json=chat("hello"))
    assert answer.json()["verdicts"]["prompt"]["safety"]["label"] == "safe"
    told = answer.headers["llm_provider-x-pillion-verdict-safety"]
    assert told.startswith("safe;p=0.99")


def test_tools_go_through(proxy: httpx.Client) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    body = chat("hello", tools=tools, frequency_penalty=0.1)
    (choice,) = proxy.post("/v1/chat/completions", json=body).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_streams_lose_verdicts_unless_they_are_passed_through(proxy: httpx.Client) -> None:
    for path, kept in (("/v1", False), ("/verdicts/v1", True)):
        chunks = streamed(proxy, f"{path}/chat/completions")
        words = [c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]]
        assert "".join(words) == "It rains in Paris today."
        assert all("verdicts" in chunk for chunk in chunks) == kept


def test_the_guardrail_refuses_what_a_probe_flags(proxy: httpx.Client) -> None:
    for text, status in (("Where is a bakery?", 200), ("Where is a bomb?", 400)):
        body = chat(text, guardrails=["pillion"])
        answer = proxy.post("/v1/chat/completions", json=body)
        assert answer.status_code == status, answer.text
    assert "moderation" in answer.text


def test_moderations_go_to_the_probe(proxy: httpx.Client) -> None:
    for text, flagged in (("Where is a bakery?", False), ("Where is a bomb?", True)):
        body = {"model": "safety", "input": text}
        (result,) = proxy.post("/v1/moderations", json=body).json()["results"]
        assert result["flagged"] is flagged is result["categories"]["unsafe"]
