"""Sending: several answers as one stream of events, and what ends with the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from sse_starlette import EventSourceResponse
from sse_starlette.sse import AppStatus, SendTimeoutError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from pillion.serve.refusal import Refused, error_body

T = TypeVar("T")

# A stream that has begun is finished on SIGTERM; the library would cut it off.
AppStatus.disable_automatic_graceful_drain()


class EventStream(EventSourceResponse):
    """OpenAI's stream: a `data:` line a chunk, `[DONE]` at the end; errors are told in it.

    Args:
        chunks: JSON objects.
        stack: closed when the stream is over, however it ends.
        send_seconds: that a client may take to accept a chunk.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[dict[str, Any]],
        stack: AsyncExitStack,
        send_seconds: float,
    ) -> None:
        super().__init__(_lines(chunks), send_timeout=send_seconds, sep="\n")
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream until it ends or its client goes; then releases what it held."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            pass  # the client reads no more; no client reads the error
        finally:
            await self._stack.aclose()


async def _lines(chunks: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[dict[str, str]]:
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                line = {"data": json.dumps(chunk, ensure_ascii=False)}
                yield line | {"event": chunk["type"]} if "type" in chunk else line
        except Refused as error:
            body = error_body(error.status_code, error.detail, error.code, error.param)
            yield {"data": json.dumps(body, ensure_ascii=False)}
    yield {"data": "[DONE]"}


async def merge(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """Items of several streams as they come, with the number of their stream."""
    queue: asyncio.Queue[tuple[int, T | None, BaseException | None]] = asyncio.Queue(64)

    async def drain(number: int, stream: AsyncGenerator[T]) -> None:
        failure: BaseException | None = None
        try:
            async with aclosing(stream):
                async for item in stream:
                    await queue.put((number, item, None))
        except Exception as error:  # passed on to the reader of the merged stream
            failure = error
        await queue.put((number, None, failure))

    tasks = [asyncio.ensure_future(drain(i, stream)) for i, stream in enumerate(streams)]
    open_streams = len(tasks)
    try:
        while open_streams:
            number, item, failure = await queue.get()
            if failure is not None:
                raise failure
            if item is None:
                open_streams -= 1
            else:
                yield number, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which ends early if the client goes away.

    Raises:
        Refused: the client has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refused(499, "The client has closed the connection.", "client_gone")
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
