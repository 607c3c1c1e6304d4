"""What is wrong with a body, as a refusal: its first fault, by the parameter's name.

Promises sentences in the words of the API, not in those of the library that validates. Knows which
parameters a route's body has, and answers nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pillion.errors import unknown_name
from pillion.serve.refusal import Refused
from pillion.serve.requests import (
    ChatRequest,
    ClassificationRequest,
    ClassifyRequest,
    CompletionRequest,
    ExplainRequest,
    Function,
    Message,
    ModerationRequest,
    ProbeRequest,
    StreamOptions,
    SwapRequest,
    ToolBody,
    VerdictOptions,
)
from pillion.serve.response_bodies import (
    FunctionTool,
    ResponsesRequest,
    ResponseTextOptions,
    TextFormat,
)

BODIES: dict[str, type[Any]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/moderations": ModerationRequest,
    "/v1/classify": ClassifyRequest,
    "/classify": ClassificationRequest,
    "/v1/explain": ExplainRequest,
    "/v1/probes": ProbeRequest,
    "/v1/probes/{name}": SwapRequest,
}
"""What a route takes."""

_CODES = {"missing": "missing_parameter", "unsupported": "unsupported_parameter"}
_SUBJECT = re.compile("^(Input|List|String|Dictionary|Object) should")
_JSON = re.compile(r"application/([^;/]+\+)?json *(;|$)", re.IGNORECASE)


def body_refusal(route: str, content_type: str, fault: Mapping[str, Any]) -> Refused:
    """The refusal of a body.

    Args:
        route: its path, with the names of its parameters.
        content_type: the header that came with the body.
        fault: the first of pydantic's.
    """
    # Of a choice between types pydantic tells the type too, which is no parameter.
    path = [str(part) for part in fault["loc"][1:] if "[" not in str(part)]
    kind, param = fault["type"], ".".join(path) or None
    if kind == "json_invalid":
        why = fault.get("ctx", {}).get("error", "unknown")
        place = fault["loc"][-1]
        message = f"The body is no JSON at character {place} ({why}); send a JSON object."
        return Refused(400, message, "invalid_json")
    if not path and kind == "missing":
        return Refused(400, "The body is empty; send a JSON object.", "missing_parameter")
    if not path and kind in ("model_attributes_type", "dict_type"):
        return _no_object(content_type)
    if kind == "extra_forbidden":
        message = str(unknown_name("parameter", path[-1][:80], _known(route, path[:-1])))
        return Refused(400, message, "unknown_parameter", param)
    return Refused(400, _sentence(param, fault), _CODES.get(kind, "invalid_value"), param)


def _no_object(content_type: str) -> Refused:
    """What came is no object, or was not read as JSON because its header says otherwise."""
    if _JSON.match(content_type):
        return Refused(400, "The body is no JSON object; send a JSON object.", "invalid_value")
    header = f"as {content_type[:80]!r}" if content_type else "without a Content-Type"
    message = f"The body came {header}; send it with the header 'Content-Type: application/json'."
    return Refused(400, message, "invalid_content_type")


def _sentence(param: str | None, fault: Mapping[str, Any]) -> str:
    if fault["type"] == "missing":
        return f"{param} is missing, and required; give it."
    said = fault["msg"].removeprefix("Value error, ").replace(" after validation", "")
    wanted, ours = _SUBJECT.subn("should", said)
    return f"{param or 'The body'}{' ' if ours else ': '}{wanted}."


def _known(route: str, parents: list[str]) -> list[str]:
    """Parameters that a body has at a place."""
    inner: dict[str, type[Any]] = {
        "messages": Message,
        "stream_options": StreamOptions,
        "pillion": VerdictOptions,
        "tools": ToolBody,
        "function": Function,
    }
    if route == "/v1/responses":
        inner = {"tools": FunctionTool, "text": ResponseTextOptions, "format": TextFormat}
    places = [name for name in parents if not name.isdigit()]
    kind = inner.get(places[-1]) if places else BODIES.get(route)
    return list(kind.model_fields) if kind else []
