"""Which routes of SGLang's server are open beside probes. Imports no SGLang.

The others answer in ways that carry no verdicts, or change what probes were checked against.
"""

from __future__ import annotations

import json
from typing import Any

READ = ("/generate", "/v1/completions", "/v1/chat/completions")
"""Routes whose answers carry verdicts."""
PLAIN = (
    "/abort_request",
    "/configure_logging",
    "/continue_generation",
    "/detokenize",
    "/flush_cache",
    "/freeze_gc",
    "/parse_function_call",
    "/pause_generation",
    "/separate_reasoning",
    "/start_profile",
    "/stop_profile",
    "/tokenize",
    "/v1/detokenize",
    "/v1/tokenize",
)
"""Others that may be asked to do something: they answer nothing that probes would read."""
CHANGING = (
    "/open_session",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/slow_down",
    "/weights_checker",
)
"""Routes that do something where they are only to be read."""


class RouteFilter:
    """An ASGI application in front of SGLang's.

    Args:
        app: SGLang's.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on if its route is open; refuses others and websockets."""
        if scope["type"] == "http" and not is_open(scope["method"], path_of(scope)):
            await _refuse(send, path_of(scope))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)


def path_of(scope: Any) -> str:
    """The path of a request, without what the server is reached under (--fastapi-root-path)."""
    root, path = scope.get("root_path", "").rstrip("/"), scope["path"]
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def is_open(method: str, path: str) -> bool:
    """Whether a route is answered."""
    path = path.rstrip("/")
    if method in ("GET", "HEAD", "OPTIONS"):
        return path not in CHANGING
    return path in (*READ, *PLAIN)


async def _refuse(send: Any, path: str) -> None:
    why = (
        f"{path} is not served beside probes: it gives no verdicts, or changes what they read; ask "
        f"{', '.join(READ)}, or start SGLang without probes."
    )
    error = {"message": why, "type": "NotFoundError", "param": None, "code": 404}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})
