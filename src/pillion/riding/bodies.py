"""Verdicts in what an engine's server sends: whole bodies, and events of streams.

Which kind of body it is shows in itself: OpenAI's with `choices`, its responses, Anthropic's
messages. All others are left as they are. Knows no engine.
"""

from __future__ import annotations

import json
from typing import Any

from pillion.riding.request_verdicts import Json, RequestVerdicts

FILTERED = "content_filter"
"""Why an answer ends that a policy has ended, for clients."""
ENDS = {
    b"response.completed": "response",
    b"response.incomplete": "response",
    b"response.failed": "response",
    b"message_delta": None,
}
"""Events with which an answer ends, and the object in them that is the whole of it."""
_EVENT, _DATA = b"event: ", b"data: "


def add_verdicts(request: RequestVerdicts, content: bytes) -> bytes:
    """A whole JSON body with its verdicts; a body that is no answer comes back unchanged."""
    try:
        body: Any = json.loads(content)
    except ValueError:
        return content
    if not isinstance(body, dict) or not request.prompts:
        return content
    is_one = body.get("object") == "response" or body.get("type") == "message"
    choices = body.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            refuse(choice, request.refusal(choice.get("index", 0)))
        told = {"verdicts": request.verdicts()} if request.probes else {}
        body |= told
        for choice in choices if told and len(choices) > 1 else ():
            choice["verdicts"] = request.verdicts(choice["index"])
    elif is_one and request.has_read:  # one that runs in the background has only begun
        body |= {"verdicts": request.last()} if request.probes else {}
        if request.is_filtered:
            filter_whole(body)
    else:
        return content
    return _dumps(body)


def refuse(choice: Json, refusal: str | None) -> None:
    """Puts a refusal where a client looks for an answer, whatever a server's parsers made of it.

    Args:
        choice: of a body or of a chunk.
        refusal: what is said; None for an answer that is given.
    """
    said: Any = choice.get("message", choice.get("delta"))
    if refusal is None or not isinstance(said, dict):
        return
    parsed = [said.pop(key, None) for key in ("reasoning", "reasoning_content", "tool_calls")]
    if "message" in choice or any(parsed):
        said["content"] = refusal


def filter_whole(body: Json) -> None:
    """A response or a message that a policy has ended says so as its kind does."""
    if body.get("type") == "message":
        body["stop_reason"] = "refusal"
    else:
        why = {"reason": FILTERED}
        body |= {"status": "incomplete", "incomplete_details": why}


class VerdictStream:
    """Adds verdicts to the events of one streamed answer.

    Args:
        request: the HTTP request that it answers.
    """

    def __init__(self, request: RequestVerdicts) -> None:
        self._request, self._rest = request, b""
        self._head: Json | None = None
        self._told = False

    def add(self, piece: bytes, is_last: bool) -> bytes:
        """The bytes to send for a piece of the stream."""
        *events, self._rest = (self._rest + piece).split(b"\n\n")
        sent = b"".join(self._event(event) + b"\n\n" for event in events)
        if is_last:
            sent, self._rest = sent + self._rest, b""
        return sent

    def _event(self, event: bytes) -> bytes:
        if event.startswith(_EVENT):
            return self._typed(event)
        if not event.startswith(_DATA) or not self._request.has_read:
            return event
        event = self._refused(event)
        if not self._request.probes:
            return event
        if self._head is None:
            self._head = _head(event)
            if self._head is None:
                return event
            first = {**self._head, "choices": [], "verdicts": self._request.verdicts()}
            return _DATA + _dumps(first) + b"\n\n" + event
        if event.startswith(b"data: [DONE]"):
            return _DATA + _dumps(self._last(self._head)) + b"\n\n" + event
        return event

    def _refused(self, event: bytes) -> bytes:
        if self._request.prompts[0].refusal is None or event.startswith(b"data: [DONE]"):
            return event
        content: Any = json.loads(event.removeprefix(_DATA))
        for choice in content.get("choices", ()):
            refuse(choice, self._request.refusal(choice.get("index", 0)))
        return _DATA + _dumps(content)

    def _last(self, head: Json) -> Json:
        """Verdicts of all answers; of several, each with its own."""
        places = self._request.places()
        # As an answer says nothing, in either kind of stream.
        empty = {"text": ""} if head["object"] == "text_completion" else {"delta": {}}
        several = [
            {"index": i, **empty, "finish_reason": None, "verdicts": self._request.verdicts(i)}
            for i in (places if len(places) > 1 else ())
        ]
        return {**head, "choices": several, "verdicts": self._request.verdicts()}

    def _typed(self, event: bytes) -> bytes:
        """An event with a type: verdicts go into it, for clients read those that they know."""
        name, _, data = event.partition(b"\n")
        kind = name.removeprefix(_EVENT).strip()
        is_end = kind in ENDS
        if not self._request.has_read or (self._told and not is_end):
            return event
        try:
            content: Any = json.loads(data.removeprefix(_DATA))
        except ValueError:
            return event
        self._told = True
        inner = content.get(ENDS[kind]) if is_end and ENDS[kind] else None
        target = content if inner is None else inner
        target |= {"verdicts": self._request.last()} if self._request.probes else {}
        if is_end and self._request.is_filtered:
            name = _end_filtered(name, content)
        return name + b"\n" + _DATA + _dumps(content)


def _end_filtered(name: bytes, content: Json) -> bytes:
    """The last event of an answer that a policy has ended, and its first line."""
    if content["type"] == "message_delta":
        content["delta"]["stop_reason"] = "refusal"
        return name
    filter_whole(content["response"])
    content["type"] = "response.incomplete"
    return _EVENT + b"response.incomplete"


def _head(event: bytes) -> Json | None:
    """What our events have in common with the stream's; None for an event of another kind."""
    try:
        content: Any = json.loads(event.removeprefix(_DATA))
    except ValueError:
        return None
    if not isinstance(content, dict) or "choices" not in content:
        return None
    return {name: content.get(name) for name in ("id", "object", "created", "model")}


def _dumps(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
