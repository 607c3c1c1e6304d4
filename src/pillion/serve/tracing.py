"""OpenTelemetry spans, where its packages are installed; nothing otherwise.

Where they go is set up as everywhere else: by `opentelemetry-instrument` or the user's own code.
Spans hold numbers and names, never texts.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from pillion.serve.request_context import RequestContext


@contextmanager
def request_span(
    method: str, headers: Mapping[str, str], context: RequestContext
) -> Generator[None]:
    """Puts a request's facts on the span around it, or on one of its own if there is none.

    Its own is a child of the one that the client names (`traceparent`).
    """
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        yield
        return
    tracer, around = trace.get_tracer("pillion"), trace.get_current_span()
    own = tracer.start_as_current_span(
        f"{method} {context.path}", context=propagate.extract(headers), record_exception=False
    )
    with trace.use_span(around) if around.is_recording() else own as span:
        span.set_attribute("pillion.request_id", context.id)
        try:
            yield
        finally:
            for name, value in context.facts.items():
                if value is not None:
                    span.set_attribute(f"pillion.{name}", value)
