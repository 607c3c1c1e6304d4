"""What all routes share: engine, settings, metrics, log, upstreams, and the queue.

Knows no route.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import httpx

from pillion.backends.tokenizer_lock import LONG_CHARS
from pillion.errors import ConfigError, PillionError
from pillion.policies import Policies
from pillion.probe import Artefact
from pillion.runtime import Engine, check_engine
from pillion.serve.health import Health
from pillion.serve.logs import Log
from pillion.serve.metrics import Metrics
from pillion.serve.quotas import Accounts
from pillion.serve.refusal import Refused, refusal_of
from pillion.serve.request_context import RequestContext
from pillion.serve.settings import Settings
from pillion.serve.upstream import Upstreams

T = TypeVar("T")
TOKEN_CHARS = 16
"""A text of more characters a token of the context is not even encoded; in English there are 4."""
_LONG = " international" * (LONG_CHARS // 14 + 1)
"""A long text of few tokens."""


class Service:
    """An engine behind HTTP.

    Args:
        engine: started and closed by `start` and `close`.
        settings: what the operator chose.
        transport: in the place of the network to upstreams, for tests.

    Attributes:
        waiting: requests that the engine has not begun.
        health: of the engine.
        refused: why it did not start, if its probes do not say what they said at training.

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
        self.accounts = Accounts()
        self.metrics = Metrics(engine.stats, lambda: self.waiting)
        self.log = Log(settings.log_prompts)
        self.health = Health(engine, self.log)
        self.upstreams = Upstreams(settings.policies, transport)
        self.waiting = 0
        self.refused: PillionError | None = None
        self.changing = asyncio.Lock()
        # Long texts hold up neither the loop nor short ones.
        self._short = ThreadPoolExecutor(2, thread_name_prefix="texts")
        self._long = ThreadPoolExecutor(2, thread_name_prefix="long-texts")
        self._grammars = ThreadPoolExecutor(2, thread_name_prefix="grammars")

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
        try:
            # Makes the copy of the tokenizer that long texts have: a second that delays no request.
            await asyncio.to_thread(self.engine.codec.encode, _LONG, "raw")
            await self._check_canaries(self.engine.probes)
        except PillionError as error:
            self.refused = error
            await self.engine.close()
            raise
        self.health.start()

    async def close(self) -> None:
        """Ends the engine and all connections to other servers."""
        await self.health.close()
        await self.engine.close()
        await self.upstreams.close()
        self._short.shutdown(wait=False)
        self._long.shutdown(wait=False)
        self._grammars.shutdown(wait=False)

    async def encode(self, work: Callable[[], T], num_chars: int) -> T:
        """Runs the tokenizer in a thread, several at a time.

        Args:
            work: to be done there.
            num_chars: of the texts; long ones have threads of their own.

        Raises:
            Refused: the text cannot be encoded.
        """
        pool = self._long if num_chars > LONG_CHARS else self._short
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except PillionError as error:
            raise refusal_of(error) from error

    async def check_grammar(self, grammar: str) -> None:
        """Returns if answers can follow a grammar, which is then kept compiled; takes seconds.

        Raises:
            ConfigError: they cannot.
        """
        check = self.engine.check_grammar
        await asyncio.get_running_loop().run_in_executor(self._grammars, check, grammar)

    def salt(self, context: RequestContext, cache_key: str | None = None) -> str:
        """Requests of one salt share cached prefixes.

        Args:
            context: the request.
            cache_key: by which a caller splits its own further.
        """
        share = self.settings.share_prefixes
        if share == "off":
            return context.id
        return json.dumps([context.caller if share == "key" else "", cache_key or ""])

    def check_model(self, name: str | None) -> None:
        """Returns if a client's model is ours; None, of a body that names none, is.

        Raises:
            Refused: 404.
        """
        if name is not None and name not in self.names:
            raise Refused(
                404,
                f"The model {name[:80]!r} is not served here; {self.names[0]!r} is.",
                "model_not_found",
                "model",
            )

    def check_chars(self, lengths: Sequence[int], param: str) -> None:
        """Returns if a request's texts are short enough to be encoded.

        Args:
            lengths: of every text, in characters.
            param: what a refusal says is wrong.

        Raises:
            Refused: 400, all of them together, or one that cannot fit into the context.
        """
        limit, count = self.settings.limits.prompt_chars, sum(lengths)
        if max(lengths, default=0) > (most := TOKEN_CHARS * self.engine.window_tokens):
            limit, count = min(limit, most), max(lengths)
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
        """A place in the queue; call what it gives when the wait is over.

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
        before = self.engine.probes
        try:
            self.policies.check(probes)
            await self.engine.set_probes(list(probes.values()))
            try:
                await self._check_canaries(
                    [name for name, one in probes.items() if before.get(name) is not one]
                )
            except PillionError:
                await self.engine.set_probes(list(before.values()))
                raise
        except ConfigError as error:
            raise refusal_of(error, 409) from error
        except PillionError as error:
            raise refusal_of(error) from error

    async def _check_canaries(self, names: Iterable[str]) -> None:
        """Whether probes say here what they said when they were trained.

        Raises:
            MismatchError: one does not.
        """
        if not self.settings.check:
            return
        begin = time.perf_counter()
        for found in await check_engine(self.engine, list(names)):
            if found.note is not None:
                self.log("probe_unchecked", probe=found.probe, why=found.note)
                continue
            seconds = round(time.perf_counter() - begin, 3)  # of all of them, read together
            self.log("probe_checked", probe=found.probe, off=found.difference, seconds=seconds)
