"""Runs the application: sockets, signals, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn

from pillion.core import defaults
from pillion.errors import ConfigError, RunError
from pillion.runtime import Engine
from pillion.serve.app import create_app
from pillion.serve.logs import set_up
from pillion.serve.settings import Settings
from pillion.serve.sockets import PatientProtocol


@dataclass(frozen=True)
class Place:
    """Where and how long the server runs.

    Attributes:
        host: address to listen at.
        port: 0 takes a free one.
        drain_seconds: that requests in flight have to finish after SIGTERM.
        notice_seconds: between the word `draining` at `/ready` and the closing of the socket, for
            load balancers to see it.

    Raises:
        ConfigError: seconds that are no finite number from 0 up.
    """

    host: str = defaults.HOST
    port: int = defaults.PORT
    drain_seconds: float = defaults.DRAIN_SECONDS
    notice_seconds: float = defaults.NOTICE_SECONDS

    def __post_init__(self) -> None:
        for name in ("drain_seconds", "notice_seconds"):
            if not 0 <= (seconds := getattr(self, name)) < math.inf:
                raise ConfigError(
                    f"{name} is {seconds}; give a finite number of seconds, 0 or more."
                )


def check_place(place: Place, settings: Settings) -> None:
    """Returns if the server may listen there.

    Raises:
        ConfigError: others could reach it, and it has no keys.
    """
    if settings.keys or is_loopback(place.host):
        return
    raise ConfigError(
        f"--host {place.host} can be reached from other machines, but there is no API key; give "
        "--api-key-file or PILLION_API_KEYS, or listen at 127.0.0.1."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def bind(place: Place) -> socket.socket:
    """A socket at the place, which does not listen yet.

    Raises:
        ConfigError: the address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((place.host, place.port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"The server cannot listen at {place.host}:{place.port} ({error.strerror or error}); "
            "choose another --host or --port."
        ) from error
    return bound


def serve(
    engine: Engine,
    settings: Settings,
    place: Place,
    bound: socket.socket,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what is in flight.

    Args:
        engine: not started yet.
        settings: what the operator chose.
        place: where and how long.
        bound: of `bind`.
        ready: called once requests are taken.

    Raises:
        ConfigError: policies that do not fit the probes.
        MismatchError: a probe does not say here what it said when it was trained.
        RunError: the engine does not start, or has failed and could not be rebuilt.
    """
    set_up()
    _allow_many_connections()
    app = create_app(engine, settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=PatientProtocol,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(place.drain_seconds)),
    )
    server = DrainingServer(config, place.notice_seconds, ready)
    try:
        server.run(sockets=[bound])
    except SystemExit as error:  # uvicorn's way to say that the application did not start
        if (refused := app.state.service.refused) is not None:
            raise refused from error
        raise RunError("The server could not start; its log says why.") from error
    if (why := app.state.service.health.failed) is not None:
        raise RunError(f"The engine is lost: {why}. Start the server again.")


class DrainingServer(uvicorn.Server):
    """A server that says it is draining before it stops to listen, and ends with exit code 0.

    Args:
        config: of uvicorn.
        notice_seconds: between the two.
        ready: called once requests are taken.
    """

    def __init__(
        self, config: uvicorn.Config, notice_seconds: float, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.notice_seconds, self._ready = notice_seconds, ready
        config.app.state.service.health.on_end = self._stop  # type: ignore[union-attr]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The application begins, and then the socket is listened at."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: take nothing new; second: drop what is in flight."""
        service = self.config.app.state.service  # type: ignore[union-attr]
        if service.health.draining:
            self.should_exit = self.force_exit = True
            return
        service.health.draining = True
        service.log("draining", running=service.engine.stats().running)
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self.notice_seconds, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def _allow_many_connections() -> None:
    """As many open connections as the system lets this user have; many shells start with 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
