"""Connections with limits: headers come in time and are short, or the socket closes.

What uvicorn lacks; the time for bodies is the application's. Knows no route.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""For the headers of a request, from the first byte of a connection or of a later request."""
HEADER_BYTES = 32 * 1024
MOST_CONNECTIONS = 4096


class PatientProtocol(H11Protocol):
    """HTTP/1.1 for clients that may be slow or hostile."""

    def connection_made(self, transport: Any) -> None:
        """A client has come; one too many is sent away."""
        super().connection_made(transport)
        self._heard, self._timer = 0, None
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: those of headers are counted, and have a time."""
        idle = self._idle()
        if idle and not self._heard:
            self._wait()
        self._heard = self._heard + len(data) if idle else 0
        super().data_received(data)
        if not self._idle():
            self._heard = 0
            self._stop()
        elif self._heard > HEADER_BYTES:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop()
        super().connection_lost(exc)

    def _idle(self) -> bool:
        """Whether no request has begun."""
        cycle: Any = self.cycle  # None at first, whatever its type says
        return cycle is None or cycle.response_complete

    def _wait(self) -> None:
        self._stop()
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self._idle():
            self.transport.close()
