"""The OpenAPI document, and whatever follows from it: no server error, whatever is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import pytest
from client import application, listening, settings
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient

from pillion.backends.fake import FakeBackend
from pillion.runtime import PlainEngine
from pillion.serve import Limits, load_keys
from tiny_models import make_artefact

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
EXAMPLES = examples(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
KEY = {"Authorization": "Bearer sk-test"}


@pytest.fixture(scope="module")
def schema() -> Generator[Any]:
    backend = FakeBackend()
    chosen = settings(
        keys=load_keys(None, {"PILLION_ADMIN_KEYS": "sk-test"}), limits=Limits(output_tokens=8)
    )
    probes = [make_artefact("p", backend.identity)]
    with listening(PlainEngine(backend, probes), chosen) as address:
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_nothing_that_follows_from_the_document_is_a_server_error(schema: Any, mode: str) -> None:
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 12
    reached: dict[str, set[int]] = {}
    for operation in operations:
        cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))
        # An operation without parameters has nothing that could be wrong.
        with contextlib.suppress(Unsatisfiable):
            statuses = statuses_of(cases)
            assert statuses and 401 not in statuses
            assert max(statuses) < 500, (operation.label, statuses)
            reached[operation.label] = statuses
    if mode == "positive":
        assert 200 in reached["POST /v1/chat/completions"] & reached["POST /v1/classify"]


def statuses_of(cases: Any) -> set[int]:
    """What cases are answered with; refusals must have OpenAI's shape."""
    statuses: set[int] = set()

    @EXAMPLES
    @given(case=cases)
    def asked(case: Any) -> None:
        if case.path.endswith(("completions", "classify")) and isinstance(case.body, dict):
            case.body["model"] = "m"  # no name that is made up gets further than a 404
            if isinstance(case.body.get("probes"), list):
                case.body["probes"] = ["p"]
            _call_nothing(case.body)
        answer = case.call(headers=KEY, timeout=120)
        statuses.add(answer.status_code)
        if answer.status_code >= 400 and answer.content:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    asked()
    return statuses


def _call_nothing(body: dict[str, Any]) -> None:
    """Takes tools out of a body, where they are not what is wrong: this model calls none."""
    if isinstance(body.get("tools"), list):
        body.pop("tool_choice", None)
        del body["tools"]
    talks = body["messages"] if isinstance(body.get("messages"), list) else []
    for message in [m for talk in talks for m in (talk if isinstance(talk, list) else [talk])]:
        if isinstance(message, dict) and isinstance(message.get("tool_calls"), list):
            del message["tool_calls"]


def test_the_document_describes_every_parameter(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    chat = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "stop", "stream_options", "logprobs", "seed"} <= set(chat)
    assert chat["modalities"]["enum"] == [None, ["text"]]
    assert {"/v1/classify", "/v1/moderations", "/v1/probes"} <= set(document["paths"])


def test_no_page_of_documentation_loads_scripts_from_elsewhere() -> None:
    with application(PlainEngine(FakeBackend())) as client:
        assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
