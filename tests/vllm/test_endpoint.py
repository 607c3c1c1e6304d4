"""What vLLM's plugin refuses by itself; no vLLM."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from pillion.errors import ConfigError, DataError, PillionError
from pillion.vllm.classify import ClassifyBody
from pillion.vllm.endpoint import Endpoint


def post(keys: list[str] | None, **headers: str) -> httpx.Response:
    app = FastAPI()
    app.state.args = SimpleNamespace(api_key=keys)
    Endpoint().attach_router(app)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            return await client.post("/classify", json={"input": "a"}, headers=headers)

    return asyncio.run(ask())


def test_classify_wants_vllms_keys_though_its_path_has_no_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM's own guard looks at paths of /v1."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    no_probe = post(None)
    assert no_probe.status_code == 404 and "pillion vllm" in no_probe.json()["error"]["message"]
    for keys in (["sk-a", "sk-b"], None):
        if keys is None:
            monkeypatch.setenv("VLLM_API_KEY", "sk-b")
        assert post(keys).status_code == 401
        assert post(keys, Authorization="Bearer sk-c").status_code == 401
        assert post(keys, Authorization="sk-b").status_code == 401
        assert post(keys, Authorization="Bearer sk-b").status_code == 404


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        ({"input": "a", "modle": "x"}, ConfigError, "Did you mean 'model'"),
        ({"input": [[1, 2]]}, DataError, "give input"),
        ({"input": "a", "messages": []}, DataError, "one of the two"),
        ({}, DataError, "one of the two"),
        ([], DataError, "The body"),
        ("no json", DataError, "The body"),
    ],
)
def test_a_body_that_is_none_is_refused(body: Any, kind: type[PillionError], why: str) -> None:
    content = body if body == "no json" else json.dumps(body)
    with pytest.raises(kind, match=why):
        ClassifyBody.of(content.encode())


def test_a_conversation_is_one_text_and_texts_are_several() -> None:
    talk = [{"role": "user", "content": "Hi"}]
    (turns,) = ClassifyBody.of(json.dumps({"messages": talk}).encode()).texts()
    assert not isinstance(turns, str) and turns[0].content == "Hi"
    assert ClassifyBody.of(b'{"input": ["a", "b"], "model": "p"}').texts() == ("a", "b")
