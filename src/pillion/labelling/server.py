"""A judge behind HTTP: any OpenAI-compatible server, asked about one label at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import httpx

from pillion.core import Text, defaults
from pillion.data import flat_text
from pillion.labelling.base import Judge, JudgeAnswer, check_labels, digest, in_full
from pillion.policies import JudgeServer as Server
from pillion.policies import Policies
from pillion.serve.upstream import UpstreamError, Upstreams

TRIES = 3
"""Of a request that may be answered a little later."""
_NAME = "judge"


class ServerJudge(Judge):
    """Asks a server, several requests at a time.

    Args:
        server: how it is reached, and what it is asked.
        labels: one or more.
        parallel: requests under way at once.
        transport: in the place of the network, for tests.
        pause_seconds: before the second try; twice as long before the next.

    Raises:
        ConfigError: no labels, or its key is not in the environment.
    """

    def __init__(
        self,
        server: Server,
        labels: Sequence[str],
        parallel: int = defaults.PARALLEL,
        transport: httpx.AsyncBaseTransport | None = None,
        pause_seconds: float = 1.0,
    ) -> None:
        self.labels, self.parallel = check_labels(labels), parallel
        self.pause_seconds = pause_seconds
        self.key = digest([server.url, server.model, server.question, *self.labels])
        self.servers = Upstreams(Policies(judges={_NAME: server}), transport)

    def ask(self, texts: Sequence[Text]) -> Iterator[JudgeAnswer]:
        """One answer a text; a server that cannot be reached, or refuses the key, ends it.

        Raises:
            UpstreamError: see above.
        """
        at_once = max(1, self.parallel // len(self.labels))
        with asyncio.Runner() as runner:
            try:
                for start in range(0, len(texts), at_once):
                    yield from runner.run(self._several(start, texts[start : start + at_once]))
            finally:
                runner.run(self._close())

    async def _close(self) -> None:
        await self.servers.close()
        await asyncio.sleep(0.01)  # sockets are closed in a turn of the loop after that

    async def _several(self, start: int, texts: Sequence[Text]) -> list[JudgeAnswer]:
        asked = (self._one(place, text) for place, text in enumerate(texts, start))
        return list(await asyncio.gather(*asked))

    async def _one(self, place: int, text: Text) -> JudgeAnswer:
        said = flat_text(text)
        try:
            found = await asyncio.gather(*(self._probability(one, said) for one in self.labels))
        except UpstreamError as error:
            if error.lasting:
                raise
            return JudgeAnswer(place, None, str(error))
        probs = {
            one: value for one, value in zip(self.labels, found, strict=True) if value is not None
        }
        if len(probs) < len(self.labels):
            unsaid = next(one for one in self.labels if one not in probs)
            return JudgeAnswer(place, None, f"The judge said neither yes nor no of {unsaid!r}.")
        return JudgeAnswer(place, in_full(probs))

    async def _probability(self, label: str, text: str) -> float | None:
        for number in range(TRIES):
            try:
                return await self.servers.probability(_NAME, label, text)
            except UpstreamError as error:
                if not error.may_pass or number == TRIES - 1:
                    raise
            await asyncio.sleep(self.pause_seconds * 2**number)
        raise AssertionError
