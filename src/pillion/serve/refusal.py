"""Refusals as OpenAI's clients understand them: a status and `{"error": {...}}`.

Turns pillion's own errors into them. Knows no route.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from pillion.errors import InputError, MismatchError, PillionError, RunError

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
"""`type` of an error by its status; `server_error` for the others."""


class Refused(HTTPException):
    """A request that is not answered as it was meant.

    Args:
        status: of HTTP.
        message: what was got, what was wanted, what to do.
        code: a short name for programs.
        param: the parameter that is at fault.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code, self.param = code, param


def error_body(
    status: int, message: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """The JSON of a refusal, in OpenAI's shape."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    content = {"message": printable(message), "type": kind, "param": param, "code": code}
    return {"error": content}


def refusal_of(error: PillionError, status: int | None = None) -> Refused:
    """What a caller is told of an error that pillion raised on purpose.

    Args:
        error: of the tree in `pillion.errors`.
        status: if it is another than the error's own.
    """
    if isinstance(error, MismatchError):
        return Refused(status or 409, str(error), "probe_mismatch")
    if isinstance(error, InputError):
        return Refused(status or 400, str(error), "invalid_value")
    if isinstance(error, RunError):
        return Refused(status or 503, str(error), "engine_error", headers={"Retry-After": "1"})
    return Refused(status or 500, str(error), "server_error")


def printable(text: str) -> str:
    """The text without lone surrogates, which no JSON answer can hold."""
    return text.encode("utf-8", "backslashreplace").decode()
