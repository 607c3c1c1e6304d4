"""What all routes share: engine, settings, metrics, log, upstreams, and who is waiting.

Knows no route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import httpx

from pillion.errors import ConfigError, PillionError
from pillion.probe import Artefact
from pillion.runtime import Engine
from pillion.serve.health import Health
from pillion.serve.logs import Log
from pillion.serve.metrics import Metrics
from pillion.serve.policy import Policies
from pillion.serve.refusal import Refused, refusal_of
from pillion.serve.settings import Settings
from pillion.serve.upstream import Upstreams

T = TypeVar("T")


class Service:
    """An engine behind HTTP.

    Args:
        engine: started and closed by `start` and `close`.
        settings: what the operator chose.
        transport: in the place of the network to upstreams, for tests.

    Attributes:
        waiting: requests that the engine has not begun.
        health: of the engine.

    Raises:
        ConfigError: the policies do not fit the probes, or a key is missing.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        settings.policies.check(engine.probes)
        self.engine, self.settings = engine, settings
        self.names = settings.names or (engine.identity.name,)
        self.metrics = Metrics(engine.stats, lambda: self.waiting)
        self.log = Log(settings.log_prompts)
        self.health = Health(engine, self.log)
        self.upstreams = Upstreams(settings.policies, transport)
        self.waiting = 0
        self.changing = asyncio.Lock()
        # One thread: tokenizers are not made for several, and long texts must not hold up the loop.
        self._texts = ThreadPoolExecutor(1, thread_name_prefix="texts")

    @property
    def policies(self) -> Policies:
        """What follows from verdicts."""
        return self.settings.policies

    @property
    def multilabel(self) -> frozenset[str]:
        """Names of the probes whose label is a list."""
        riding = self.engine.probes.items()
        return frozenset(name for name, one in riding if one.card.task == "multilabel")

    async def start(self) -> None:
        """Gets the engine ready."""
        await self.engine.start()
        self.health.start()

    async def close(self) -> None:
        """Ends the engine and all connections to other servers."""
        await self.health.close()
        await self.engine.close()
        await self.upstreams.close()
        self._texts.shutdown(wait=False)

    async def encode(self, work: Callable[[], T]) -> T:
        """Runs the tokenizer in its thread.

        Raises:
            Refused: the text cannot be encoded.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._texts, work)
        except PillionError as error:
            raise refusal_of(error) from error

    def check_model(self, name: str) -> None:
        """Returns if a client's model is ours.

        Raises:
            Refused: 404.
        """
        if name not in self.names:
            raise Refused(
                404,
                f"The model {name[:80]!r} is not served here; {self.names[0]!r} is.",
                "model_not_found",
                "model",
            )

    def check_chars(self, count: int, param: str) -> None:
        """Returns if a request's texts are short enough to be encoded.

        Raises:
            Refused: 400.
        """
        limit = self.settings.limits.prompt_chars
        if count > limit:
            raise Refused(
                400,
                f"The request has {count:,} characters of text, this server takes {limit:,}; "
                "shorten it.",
                "context_length_exceeded",
                param,
            )

    @contextmanager
    def queue(self) -> Generator[Callable[[], None]]:
        """A place among those who wait; what it gives is to be called when the wait is over.

        Raises:
            Refused: 429, with Retry-After, if too many wait already.
        """
        limit = self.settings.limits.queue
        if self.waiting >= limit:
            raise Refused(
                429,
                f"{self.waiting} requests are waiting, and this server lets {limit} wait; come "
                "back in a second.",
                "queue_full",
                headers={"Retry-After": "1"},
            )
        self.waiting += 1
        waits = True

        def begin() -> None:
            nonlocal waits
            self.waiting -= waits
            waits = False

        try:
            yield begin
        finally:
            begin()

    async def change_probes(self, probes: dict[str, Artefact]) -> None:
        """Puts other probes in the place of those that ride.

        Raises:
            Refused: 409 if a policy needs one that would go, or one belongs to another model.
        """
        try:
            self.policies.check(probes)
            await self.engine.set_probes(list(probes.values()))
        except ConfigError as error:
            raise refusal_of(error, 409) from error
        except PillionError as error:
            raise refusal_of(error) from error
