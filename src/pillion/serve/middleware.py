"""Around every request: its id, its caller, how much it may send, its line in the log.

The outermost handler: an unexpected error becomes a 500 in OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from contextlib import nullcontext
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pillion.serve.body import JsonCounts
from pillion.serve.keys import LOCAL, Caller
from pillion.serve.refusal import Refused, error_body
from pillion.serve.request_context import RequestContext
from pillion.serve.service import Service
from pillion.serve.settings import Limits
from pillion.serve.tracing import request_span

OPEN_PATHS = ("/", "/health", "/ready", "/metrics", "/openapi.json")
"""Answered without a key: they say nothing of texts."""

UNAUTHENTICATED = Caller("anonymous")

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LOOPBACK_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)


class RequestMiddleware:
    """Outermost ASGI application.

    Args:
        app: what answers.
        service: whose settings, log and metrics count.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; other protocols are passed on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        context = RequestContext(path=scope["path"])
        context.deadline = context.began + self.service.settings.limits.seconds
        scope["pillion.context"] = context
        answer = _WatchedResponse(send, headers.get("x-request-id", ""), context)
        try:
            with request_span(scope["method"], headers, context):
                context.account = self.service.accounts.of(self._admit(scope, headers))
                limited = _limited(receive, headers, self.service.settings.limits)
                with context.account.request() if _counts(scope) else nullcontext():
                    await self.app(scope, limited, answer.send)
        except Refused as error:
            await answer.refuse(error, scope, receive)
        except Exception as error:
            self.service.log.failure(error, request_id=answer.id, path=context.path)
            failure = Refused(500, "The server failed; its log says more.", "internal_error")
            await answer.refuse(failure, scope, receive)
        finally:
            self._write(scope, context, answer)

    def _admit(self, scope: Scope, headers: Headers) -> Caller:
        """The caller.

        Raises:
            Refused: 401, 403; or 503 while the server drains.
        """
        keys = self.service.settings.keys
        if not keys:
            _check_local(scope, headers)
            caller: Caller | None = LOCAL
        elif scope["path"] in OPEN_PATHS:
            caller = UNAUTHENTICATED
        else:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            caller = keys.caller(key.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Refused(
                401,
                "No valid API key; send one as Authorization: Bearer KEY.",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if self.service.health.draining and _works(scope):
            raise Refused(
                503,
                "The server is shutting down; ask another one.",
                "draining",
                headers={"Retry-After": "1", "Connection": "close"},
            )
        return caller

    def _write(self, scope: Scope, context: RequestContext, answer: _WatchedResponse) -> None:
        route = getattr(scope.get("route"), "path", "none")
        status = answer.status or 499
        self.service.metrics.requests.labels(route, str(status)).inc()
        self.service.metrics.request_seconds.labels(route).observe(context.seconds)
        if scope["path"] in OPEN_PATHS and status < 400:
            return
        self.service.log(
            "request",
            context.texts,
            request_id=answer.id,
            method=scope["method"],
            route=route,
            status=status,
            seconds=round(context.seconds, 4),
            caller=context.caller,
            **context.facts,
        )


class _WatchedResponse:
    """Watches what is sent: the status is remembered, the request's id added."""

    def __init__(self, send: Send, wanted_id: str, context: RequestContext) -> None:
        self._send = send
        # The client's own id goes to the log and back; inside, every request has one of ours.
        self.id = wanted_id if _ID.fullmatch(wanted_id) else context.id
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self.id
        await self._send(message)

    async def refuse(self, error: Refused, scope: Scope, receive: Receive) -> None:
        """Answers with an error, if nothing was sent yet."""
        if self.status is None:
            await refusal_response(error)(scope, receive, self.send)


def refusal_response(error: Refused) -> JSONResponse:
    """A refusal as a response."""
    body: dict[str, Any] = error_body(error.status_code, error.detail, error.code, error.param)
    return JSONResponse(body, error.status_code, error.headers)


def _counts(scope: Scope) -> bool:
    """Whether a request is one of those that quotas count."""
    return scope["method"] == "POST" and _works(scope)


def _works(scope: Scope) -> bool:
    """Whether a request is for what the server is there for, not for how it is."""
    return scope["path"].startswith("/v1/") or scope["path"] == "/classify"


def _check_local(scope: Scope, headers: Headers) -> None:
    """Without keys only this machine may ask; a page of another site must not, by a false name."""
    client = scope.get("client")
    host = headers.get("host", "localhost")
    if (client is None or _is_loopback(client[0])) and _LOOPBACK_HOST.fullmatch(host):
        return
    raise Refused(
        403,
        "This server has no API keys and answers its own machine only (as localhost); start it "
        "with keys to open it to others.",
        "loopback_only",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in {"", "localhost"}


def _limited(receive: Receive, headers: Headers, limits: Limits) -> Receive:
    """Receives up to a number of bytes, and of what a `JsonCounts` counts in them.

    Raises:
        Refused: 413, at once if the client says how much it sends; 400 of the counts; 408.
    """
    limit = limits.body_bytes
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise _too_large(limit)
    got, counts, whole = 0, JsonCounts(), False
    until = time.monotonic() + limits.body_seconds

    async def limited() -> Message:
        nonlocal got, whole
        if whole:  # what comes now is the client's disconnect
            return await receive()
        try:
            async with asyncio.timeout(until - time.monotonic()):
                message = await receive()
        except TimeoutError as error:
            raise _too_slow(limits.body_seconds) from error
        whole = not message.get("more_body", False)
        piece = message.get("body", b"")
        got += len(piece)
        if got > limit:
            raise _too_large(limit)
        counts.add(piece)
        return message

    return limited


def _too_slow(seconds: float) -> Refused:
    why = f"The body did not come within {seconds:g} seconds; send it at once."
    return _hung_up(408, why, "body_too_slow")


def _too_large(limit: int) -> Refused:
    return _hung_up(
        413, f"The body is larger than {limit:,} bytes; send less at once.", "body_too_large"
    )


def _hung_up(status: int, why: str, code: str) -> Refused:
    """A refusal that ends the connection: the rest of the body is not read."""
    return Refused(status, why, code, headers={"Connection": "close"})
