"""The plainest engine: every request runs by itself, one step at a time, in turn with the others.

The reference that faster engines must equal, and what serves the `fake` model. No batching, no
prefix cache, no preemption. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

from jaxtyping import Float, Int
from torch import Tensor

from pillion.backends import Backend, Step
from pillion.core import Event, TokenEvent, Tokens, Verdict, as_tokens
from pillion.core.batching import batches_by_length
from pillion.errors import RunError
from pillion.probe import Artefact
from pillion.runtime.backend_engine import BackendEngine
from pillion.runtime.decoding import answer_events
from pillion.runtime.engine import EngineStats, Request, check_room
from pillion.runtime.exits import may_leave, score_leaving
from pillion.runtime.explanation import Explanation, explain_row
from pillion.runtime.language_model import SCORING_TOKENS, LanguageModel
from pillion.runtime.padding import pad_batch
from pillion.runtime.reading import Reading
from pillion.runtime.sampling import LogprobSampler

T = TypeVar("T")


class PlainEngine(BackendEngine):
    """Serves a backend without batching; see `Engine`.

    Steps run in one thread, so the event loop stays free and requests take turns.

    Args:
        backend: the model.
        probes: those that ride from the start.

    Raises:
        MismatchError: a probe of another model.
    """

    def __init__(self, backend: Backend, probes: Sequence[Artefact] = ()) -> None:
        super().__init__(backend)
        self._probes = self._checked(probes)
        self._stats, self._counting = EngineStats(), threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._closed = False

    async def start(self) -> None:
        """Does nothing: the model is there."""

    async def submit(self, request: Request) -> AsyncGenerator[Event]:
        """The events of one request; see `Engine.submit`."""
        check_room(request, self.identity.context_tokens, self.vocab_size)
        self._count(waiting=1)
        steps, began = self._events(request, list(self._probes.values())), False
        try:
            while (event := await self._run(lambda: next(steps, None))) is not None:
                if not began:
                    began = True
                    self._count(waiting=-1, running=1, prompt_tokens=len(request.token_ids))
                self._count(generated_tokens=isinstance(event, TokenEvent))
                yield event
        finally:
            self._count(**({"running": -1} if began else {"waiting": -1}))

    async def _classify(
        self, rows: Sequence[Sequence[int]], artefacts: Sequence[Artefact], owner: str
    ) -> list[dict[str, Verdict]]:
        """Batch by batch; the backend may run every block."""
        out: list[dict[str, Verdict]] = [{} for _ in rows]
        for batch in batches_by_length([len(row) for row in rows], SCORING_TOKENS):
            found = await self._run(lambda b=batch: self._score([rows[i] for i in b], artefacts))
            for row, verdicts in zip(batch, found, strict=True):
                out[row] = verdicts
        return out

    async def _explain(self, row: Tokens, artefact: Artefact) -> Explanation:
        model = LanguageModel(self.backend)
        return await self._run(lambda: explain_row(model, artefact, row))

    async def set_probes(self, probes: Sequence[Artefact]) -> None:
        """Replaces the riding probes; requests in flight keep those that they began with."""
        self._probes = self._checked(probes)

    def stats(self) -> EngineStats:
        """What has been done and what is going on."""
        return self._stats

    async def close(self) -> None:
        """Stops; what is in flight ends with a RunError."""
        self._closed = True
        self._thread.shutdown(wait=False)

    # -- inside

    async def _run(self, step: Callable[[], T]) -> T:
        if self._closed:
            raise RunError("The engine is shutting down; ask again when it is back.")

        def unchanged() -> T:
            self._unchanged()
            return step()

        return await asyncio.get_running_loop().run_in_executor(self._thread, unchanged)

    def _count(self, **changes: int | float) -> None:
        with self._counting:
            now = self._stats
            self._stats = replace(now, **{k: getattr(now, k) + v for k, v in changes.items()})

    def _reading(self, artefacts: Sequence[Artefact]) -> Reading | None:
        if not artefacts:
            return None
        backend = self.backend
        return Reading(artefacts, backend.device, backend.dtype, backend.reasoning_ids)

    def _score(
        self, rows: Sequence[Sequence[int]], artefacts: Sequence[Artefact]
    ) -> list[dict[str, Verdict]]:
        if may_leave(artefacts):
            return score_leaving(self.backend, artefacts, rows)
        reading = self._reading(artefacts)
        assert reading is not None
        reading.expect([as_tokens(row) for row in rows])
        with self.backend.watch(_Timed(reading, self._count), reading.layers):
            self.backend.forward(*pad_batch(rows))
        return reading.verdicts()

    def _events(self, request: Request, artefacts: Sequence[Artefact]) -> Generator[Event]:
        """The events of a request; each pass is watched for this request only."""
        reading, backend = self._reading(artefacts), self.backend

        def watched() -> AbstractContextManager[None]:
            if reading is None:
                return nullcontext()
            return backend.watch(_Timed(reading, self._count), reading.layers)

        prompt = as_tokens(request.token_ids)
        matcher = backend.matcher(request.grammar) if request.grammar else None
        draw = LogprobSampler(
            request.sampling, backend.device, request.top_logprobs, prompt, matcher
        )
        return answer_events(backend, prompt, request.max_tokens, draw, reading, watched)


class _Timed:
    """A reading whose time is counted. A `Watcher`."""

    def __init__(self, reading: Reading, count: Callable[..., None]) -> None:
        self.reading, self.count = reading, count

    def start(self, step: Step) -> None:
        self._clock(lambda: self.reading.start(step))

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        self._clock(lambda: self.reading.see(layer, hidden))

    def end(self, cache: object | None) -> None:
        self._clock(lambda: self.reading.end(cache))

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        self.reading.move(cache, rows)

    def _clock(self, work: Callable[[], None]) -> None:
        begin = time.perf_counter()
        work()
        self.count(probe_seconds=time.perf_counter() - begin)
