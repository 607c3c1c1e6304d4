"""Between the routes of an engine's server and its clients: verdicts go into every answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pillion.errors import ConfigError
from pillion.policies import Policies
from pillion.riding.bodies import VerdictStream, add_verdicts
from pillion.riding.client_options import ClientOptions
from pillion.riding.latest_logits import KEY
from pillion.riding.request_verdicts import BEAMS, REQUEST_VERDICTS, RequestVerdicts

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class VerdictMiddleware:
    """An ASGI application around a server's.

    Args:
        app: the server's.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handles one request; those without a JSON body are passed on."""
        state = scope["app"].state if scope["type"] == "http" else None
        probes = getattr(state, "pillion_probes", ())
        if not probes or scope["method"] != "POST" or not _is_json(scope["headers"]):
            await self.app(scope, receive, send)
            return
        content, again = await _read(receive)
        try:
            body: Any = json.loads(content)
        except (ValueError, RecursionError):  # the server says so
            body = None
        try:
            options = ClientOptions.of(body, [probe.name for probe in probes])
        except ConfigError as error:
            await _refuse(send, str(error))
            return
        has_beams = isinstance(body, dict) and bool(body.get("use_beam_search"))
        policies: Policies | None = getattr(state, "pillion_policies", None)
        has_policies = policies is not None and bool(policies.policies)
        if has_beams and has_policies:
            why = "use_beam_search: no policy can be followed there; ask without it."
            await _refuse(send, why, "use_beam_search")
            return
        request = RequestVerdicts(probes, options, BEAMS if has_beams else None, policies)
        token = REQUEST_VERDICTS.set(request)
        try:
            changes = bool(request.probes) or has_policies
            await self.app(scope, again, _VerdictSender(send, request).send if changes else send)
        finally:
            REQUEST_VERDICTS.reset(token)
            request.count()


class _VerdictSender:
    """Puts verdicts into what is sent."""

    def __init__(self, send: Send, request: RequestVerdicts) -> None:
        self._send, self._request, self._stream = send, request, VerdictStream(request)
        self._kind, self._pieces = "other", list[bytes]()
        self._start: Message = {}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] != "http.response.body" or self._kind == "other":
            await self._send(message)
        elif self._kind == "stream":
            is_last = not message.get("more_body", False)
            body = self._stream.add(message.get("body", b""), is_last)
            await self._send({**message, "body": body})
        else:
            await self._whole(message)

    async def _begin(self, message: Message) -> None:
        kind = _header(message["headers"], b"content-type")
        if message["status"] == 200 and kind.startswith(b"text/event-stream"):
            self._kind = "stream"
        elif message["status"] == 200 and kind.startswith(b"application/json"):
            self._kind, self._start = "whole", message
            return  # its length is not known yet
        await self._send(message)

    async def _whole(self, message: Message) -> None:
        self._pieces.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = add_verdicts(self._request, b"".join(self._pieces))
        headers = [one for one in self._start["headers"] if one[0].lower() != b"content-length"]
        length = (b"content-length", str(len(body)).encode())
        await self._send({**self._start, "headers": [*headers, length]})
        await self._send({**message, "body": body})


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """A request's body, and how to receive it once more."""
    last = await receive()
    pieces = [last.get("body", b"")]
    while last["type"] == "http.request" and last.get("more_body", False):
        last = await receive()
        pieces.append(last.get("body", b""))
    body = b"".join(pieces)
    waiting = [{**last, "body": body} if last["type"] == "http.request" else last]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return body, again


async def _refuse(send: Send, why: str, param: str = KEY) -> None:
    """Answers with an error, in the shape of OpenAI's."""
    error = {"message": why, "type": "BadRequestError", "param": param, "code": 400}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_json(headers: Any) -> bool:
    kind = _header(headers, b"content-type").split(b";")[0].strip().lower()
    return kind == b"application/json"


def _header(headers: Any, name: bytes) -> bytes:
    return next((value for key, value in headers if key.lower() == name), b"")
