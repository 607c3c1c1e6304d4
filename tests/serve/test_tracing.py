"""Spans of requests, where OpenTelemetry is installed."""

from __future__ import annotations

from typing import Any

import pytest
from client import application, ask
from scripted import ScriptedEngine

trace = pytest.importorskip("opentelemetry.trace", reason="opentelemetry is not installed")
sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where spans go, of a provider of the test's own."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return kept


def test_a_span_holds_the_numbers_of_its_request_and_no_text(spans: Any) -> None:
    with application(ScriptedEngine()) as client:
        ask(client, text="a secret")
        client.get("/v1/models", headers={"traceparent": PARENT})
    one, two = spans.get_finished_spans()
    assert one.name == "POST /v1/chat/completions"
    assert one.attributes["pillion.completion_tokens"] == 5
    assert one.attributes["pillion.finish_reason"] == "stop"
    assert "secret" not in str(dict(one.attributes))
    assert format(two.parent.trace_id, "032x") == PARENT.split("-")[1]
