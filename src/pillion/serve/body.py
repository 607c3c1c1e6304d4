"""Bodies of requests: counted while they arrive, parsed beside the event loop.

A body that would take long to parse or check is refused before either is begun. Knows no parameter.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from pillion.core.lines import is_json
from pillion.serve.refusal import Refused

MOST_NAMES = 10_000
"""Of all objects together, the objects included."""
MOST_VALUES = 250_000
"""Of all lists and objects together: a prompt of token ids has one a token."""
MOST_DEPTH = 32

_PARSERS = ThreadPoolExecutor(2, thread_name_prefix="bodies")
_QUOTE, _ESCAPE = ord('"'), ord("\\")
_STEPS = np.zeros(256, np.int64)
_STEPS[[ord("{"), ord("[")]], _STEPS[[ord("}"), ord("]")]] = 1, -1


class JsonCounts:
    """Counts what a JSON text holds outside of its strings, piece by piece.

    Law: where the pieces are cut changes nothing. Whether it is JSON is for the parser to say.

    Attributes:
        names: colons and objects.
        values: commas, lists and objects.
        depth: of the deepest list or object.
    """

    def __init__(self) -> None:
        self.names = self.values = self.depth = 0
        self._open = 0
        self._in_string = self._escaped = False

    def add(self, piece: bytes) -> None:
        """Takes the next piece.

        Raises:
            Refused: 400, as soon as there is too much.
        """
        if not piece:
            return
        outside = np.frombuffer(piece, np.uint8)[self._outside(piece)]
        counts = np.bincount(outside, minlength=256)
        level = self._open + np.cumsum(_STEPS[outside])
        if len(level):
            self.depth, self._open = max(self.depth, int(level.max())), int(level[-1])
        self.names += int(counts[ord(":")] + counts[ord("{")])
        self.values += int(counts[ord(",")] + counts[ord("{")] + counts[ord("[")])
        self._check()

    def _outside(self, piece: bytes) -> np.ndarray:
        """Which bytes stand outside of strings; quotes may be on either side."""
        codes = np.frombuffer(piece, np.uint8)
        quotes = codes == _QUOTE
        if self._escaped or _ESCAPE in piece:
            quotes &= ~self._after_escape(codes)
        else:
            self._escaped = False
        inside = np.logical_xor.accumulate(np.concatenate([[self._in_string], quotes]))
        self._in_string = bool(inside[-1])
        return ~inside[1:]

    def _after_escape(self, codes: np.ndarray) -> np.ndarray:
        """Which bytes an odd run of backslashes stands before."""
        places = np.arange(1, len(codes) + 1)
        # A backslash that was escaped ended its run in the piece before.
        last_other = np.maximum.accumulate(
            np.concatenate([[-1 if self._escaped else 0], np.where(codes != _ESCAPE, places, -1)])
        )
        run = np.arange(len(codes) + 1) - last_other
        odd = (run % 2).astype(bool)
        self._escaped = bool(odd[-1])
        return odd[:-1]

    def _check(self) -> None:
        for got, most, what in (
            (self.names, MOST_NAMES, "names"),
            (self.values, MOST_VALUES, "values"),
            (self.depth, MOST_DEPTH, "levels of lists and objects"),
        ):
            if got > most:
                raise Refused(
                    400,
                    f"The body has {got:,} {what} or more, this server reads {most:,}; send less "
                    "at once.",
                    "body_too_complex",
                    headers={"Connection": "close"},  # the rest of it is not read
                )


def parse(body: bytes) -> Any:
    """The JSON of a body.

    Raises:
        JSONDecodeError: it is none.
        Refused: 400, bytes that are no UTF-8, a number that is too long to be read, or half of a
            surrogate pair: no text, and it fits into no answer.
    """
    try:
        # In UTF-8 alone, strictly: json reads UTF-16 too, whose bytes `JsonCounts` cannot count,
        # and lets bytes pass that spell half of a surrogate pair.
        content = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        why = f"The body is no UTF-8 at byte {error.start}; send JSON in UTF-8."
        raise Refused(400, why, "invalid_json") from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # what Python says of whole numbers of more digits
        digits = sys.get_int_max_str_digits()
        why = f"A number of the body has more than {digits:,} digits; send a shorter one."
        raise Refused(400, why, "invalid_value") from error
    # Only an escape can spell one.
    if b"\\u" in body and not is_json(content, finite=False):
        raise Refused(
            400, "A text holds a lone surrogate; send valid Unicode.", "invalid_value", None
        )
    return content


class _ParsedAside(Request):
    """A request whose body is parsed in a thread."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            loop, body = asyncio.get_running_loop(), await self.body()
            self._json = await loop.run_in_executor(_PARSERS, parse, body)
        return self._json


class BodyRoute(APIRoute):
    """A route whose body is parsed in a thread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, which parses bodies beside the event loop."""
        handle = super().get_route_handler()

        async def aside(request: Request) -> Response:
            return await handle(_ParsedAside(request.scope, request.receive))

        return aside
