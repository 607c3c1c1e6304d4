"""What tests of the server share: an application without a socket, and one on loopback."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from pillion.runtime import Engine
from pillion.serve import Settings, create_app

MODEL = "m"
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


def settings(**facts: Any) -> Settings:
    return Settings(names=(MODEL,), **facts)


@contextlib.contextmanager
def application(
    engine: Engine, chosen: Settings | None = None, transport: Any = None
) -> Generator[TestClient]:
    """The application, its engine started, without a socket."""
    app = create_app(engine, chosen or settings(), transport)
    local: Any = {"base_url": "http://localhost", "client": ("127.0.0.1", 1)}
    with TestClient(app, **local) as client:
        yield client


@contextlib.contextmanager
def listening(engine: Engine, chosen: Settings | None = None, **options: Any) -> Generator[str]:
    """The address of the application on loopback, in a thread of its own."""
    app = create_app(engine, chosen or settings())
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=5, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def chat(text: str = "hello", **facts: Any) -> dict[str, Any]:
    """A body."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **facts}


def ask(client: TestClient, **facts: Any) -> Any:
    """The JSON of a chat answer."""
    answer = client.post(CHAT, json=chat(**facts))
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(text: str) -> list[Any]:
    """The chunks of a stream, which must end as OpenAI's do."""
    lines = [line for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def streamed(client: TestClient, path: str = CHAT, **facts: Any) -> list[Any]:
    """The chunks of a chat answer."""
    body = facts if path != CHAT else chat(**facts)
    answer = client.post(path, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events(answer.text)


def text_of(chunks: Iterator[Any] | list[Any], index: int = 0) -> str:
    """What a stream says."""
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )


def refusal(client: TestClient, path: str, body: Any, status: int = 400) -> Any:
    """The error of a request that must be refused, in OpenAI's shape."""
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"][-1] in ".?"
    return error
