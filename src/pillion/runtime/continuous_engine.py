"""Serves a transformers model to many requests at once, with probes riding in the same passes.

transformers' continuous batching runs in a thread of its own; what it draws and what the probes
read goes to the event loop once a step. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count

from pillion.backends import Backend
from pillion.backends.grammar import Matcher
from pillion.backends.paged import EngineRequest, PagedSettings, SampledToken
from pillion.core import Event, Finished, PromptRead, TokenEvent, Tokens, Verdict, as_tokens
from pillion.errors import ConfigError, PillionError, RunError, StateError
from pillion.probe import Artefact
from pillion.runtime.backend_engine import BackendEngine
from pillion.runtime.chunked_passes import ChunkedPasses
from pillion.runtime.classifier import RowClassifier
from pillion.runtime.decoding import Detokenizer
from pillion.runtime.engine import EngineStats, Request, check_room
from pillion.runtime.explanation import Explanation, explain_row
from pillion.runtime.language_model import LanguageModel
from pillion.runtime.paged_reading import PagedReading
from pillion.runtime.sampling import Sampler
from pillion.sidecache import Probs


@dataclass(frozen=True)
class StepOutput:
    """What a step gave a request: a token, and what the probes said with it."""

    drawn: SampledToken
    cached_tokens: int
    prompt: Probs | None = None
    answer: Probs | None = None
    lost: tuple[str, ...] = ()
    fault: str | None = None


@dataclass
class RunningRequest:
    """A request on its way."""

    reading: PagedReading | None
    tokens: Tokens
    begun: bool = False
    inbox: asyncio.Queue[StepOutput] = field(default_factory=lambda: asyncio.Queue[StepOutput]())


class ContinuousEngine(BackendEngine):
    """transformers' continuous batching with probes; see `Engine`.

    Args:
        backend: a transformers model, which the engine has for itself from `start` on.
        probes: those that ride from the start.
        settings: how much is held and done at once.

    Raises:
        ConfigError: another kind of backend, sizes that do not fit the machine, or a probe that
            reads whole states.
        MismatchError: a probe of another model.
    """

    def __init__(
        self,
        backend: Backend,
        probes: Sequence[Artefact] = (),
        settings: PagedSettings | None = None,
    ) -> None:
        from pillion.backends.continuous import ContinuousBatching
        from pillion.backends.transformers import TransformersBackend

        if not isinstance(backend, TransformersBackend):
            raise ConfigError(
                f"Continuous batching needs a model of transformers, got {backend.identity.name!r};"
                " serve that one with PlainEngine."
            )
        super().__init__(backend)
        self._batching = ContinuousBatching(backend, settings or PagedSettings(), self._deliver)
        self._passes = ChunkedPasses(backend, self._batching.alone, self._batching.step_seconds)
        self._classifier, self._explaining = RowClassifier(self._passes), asyncio.Lock()
        self._running: dict[str, RunningRequest] = {}
        self._following = threading.Lock()  # who runs, and which readings follow whom
        self._ids = count()
        self._swap = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._counts = EngineStats()
        self._readings: list[PagedReading] = []
        try:
            self._use(self._checked(probes), self._new_reading(probes))
        except PillionError:
            self._batching.close()
            raise

    @property
    def window_tokens(self) -> int:
        """What the model takes and the cache holds."""
        return min(self.identity.context_tokens, self._batching.capacity_tokens)

    async def start(self) -> None:
        """Begins to take steps."""
        self._loop = asyncio.get_running_loop()
        self._batching.start()

    @property
    def failure(self) -> str | None:
        """Why no step will be taken any more; None while all is well."""
        return self._batching.failure

    async def rebuild(self) -> None:
        """Takes steps again, with empty caches; see `Engine.rebuild`."""
        async with self._swap:
            probes = list(self._probes.values())
            reading = await asyncio.to_thread(self._new_reading, probes)
            self._readings = []
            self._use(self._probes, reading)
            await asyncio.to_thread(self._batching.start)
        async for _ in self.submit(Request("trial", (0,), 1)):
            pass

    async def submit(self, request: Request) -> AsyncGenerator[Event]:
        """The events of one request; see `Engine.submit`."""
        check_room(request, self.window_tokens, self.vocab_size)
        matcher: Matcher | None = None
        if request.grammar:  # it may take a while
            matcher = await asyncio.to_thread(self.backend.matcher, request.grammar)
        engine_request = self._engine_request(request, matcher)
        running, over = self._begin(engine_request.request, as_tokens(request.token_ids)), False
        try:
            self._batching.add(engine_request)
            text, first = Detokenizer(self.backend), True
            while not over:
                output = await running.inbox.get()
                over = output.drawn.failure is not None or output.drawn.finished is not None
                self._check(output)
                if first:
                    yield PromptRead(await self._asked(output, running), output.cached_tokens)
                for event in self._events(output, running, text):
                    yield event
                first = False
        finally:
            self._finish(engine_request.request, running, over)

    async def _classify(
        self, rows: Sequence[Sequence[int]], artefacts: Sequence[Artefact], owner: str
    ) -> list[dict[str, Verdict]]:
        """Between two steps; calls that wait run together."""
        return await self._classifier.classify(rows, artefacts, owner)

    async def _explain(self, row: Tokens, artefact: Artefact) -> Explanation:
        """Between two steps."""
        model = LanguageModel(self.backend)
        async with self._explaining:  # one at a time: it is dear, and its memory too
            return await asyncio.to_thread(lambda: explain_row(model, artefact, row, self._passes))

    async def set_probes(self, probes: Sequence[Artefact]) -> None:
        """Replaces the riding probes; requests in flight begin again, with those that they had."""
        async with self._swap:
            if any(probe.card.exit for probe in probes):
                await asyncio.to_thread(self._check_leaving)
            named = self._checked(probes)
            reading = await asyncio.to_thread(self._new_reading, probes)
            await asyncio.to_thread(self._replace, named, reading)

    @property
    def probe_bytes(self) -> int:
        """Memory of taps and of what is kept of tokens, in bytes."""
        return sum(reading.side.held_bytes for reading in self._readings)

    def stats(self) -> EngineStats:
        """Counters since the start, and what runs now."""
        seconds = sum(reading.seconds for reading in self._readings)
        return replace(
            self._counts,
            waiting=self._batching.waiting,
            running=self._batching.running,
            preemptions=self._batching.preemptions,
            probe_seconds=self._counts.probe_seconds + seconds + self._passes.seconds,
        )

    async def close(self) -> None:
        """Stops; what is in flight ends with a RunError."""
        self._closed = True
        await asyncio.to_thread(self._batching.close)

    # -- inside, on the event loop

    def _engine_request(self, request: Request, matcher: Matcher | None) -> EngineRequest:
        how = request.sampling
        draw = Sampler(how, self.backend.device, request.token_ids, matcher)
        return EngineRequest(
            request=f"{next(self._ids)}",  # a name may come again while it is being cancelled
            token_ids=request.token_ids,
            max_tokens=request.max_tokens,
            draw=draw if how.temperature > 0 or how.shifts or matcher else None,
            top_logprobs=request.top_logprobs,
            salt=request.salt,
        )

    def _begin(self, request: str, tokens: Tokens) -> RunningRequest:
        with self._following:
            self._running[request] = running = RunningRequest(self._reading, tokens)
            for reading in self._readings:  # all follow all requests: pages are shared
                reading.side.enter(request, tokens, reading is running.reading)
        return running

    def _check(self, output: StepOutput) -> None:
        if output.fault is not None:
            raise StateError(output.fault)
        if output.drawn.failure is not None:
            why = "is shutting down" if self._closed else f"failed ({output.drawn.failure})"
            raise RunError(f"The engine {why}; ask again when it is back.")

    async def _asked(self, output: StepOutput, running: RunningRequest) -> dict[str, Verdict]:
        """Verdicts of the prompt; by a pass of its own where shared pages could not tell its words.

        The request that filled them had other turns in the same tokens, as a raw prompt has none.
        """
        if running.reading is None:
            return {}
        found = running.reading.verdicts(output.prompt)
        if output.lost:
            probes = running.reading.artefacts
            (more,) = await self._classifier.classify(
                [running.tokens], [probes[name].whole for name in output.lost]
            )
            found = {n: v for n in probes if (v := (found | more).get(n)) is not None}
        return found

    def _events(
        self, output: StepOutput, running: RunningRequest, text: Detokenizer
    ) -> Iterator[Event]:
        drawn, reading = output.drawn, running.reading
        verdicts = {} if reading is None else reading.verdicts(output.answer)
        if drawn.token_id not in self.end_ids:
            words = text.add(drawn.token_id, drawn.finished is not None)
            logprobs = drawn.logprob, drawn.top_logprobs
            yield TokenEvent(drawn.token_id, words, verdicts, *logprobs)
        if drawn.finished is not None:
            yield Finished(drawn.finished, verdicts)

    def _finish(self, request: str, running: RunningRequest, over: bool) -> None:
        if over:
            self._batching.forget(request)
        else:
            self._batching.cancel(request)
        with self._following:
            self._running.pop(request, None)
            for reading in self._readings:
                reading.side.leave(request)
        if len(self._readings) > 1 and not self._running:
            # No step may come that would see to it.
            self._tidying = asyncio.get_running_loop().run_in_executor(None, self._tidy)

    def _hand_out(self, outputs: Sequence[tuple[RunningRequest, StepOutput]]) -> None:
        for running, one in outputs:
            running.inbox.put_nowait(one)

    # -- inside, in the engine's thread

    def _deliver(self, drawn: list[SampledToken]) -> None:
        """What a step drew, with what the probes said in it, goes to the event loop."""
        outputs: list[tuple[RunningRequest, StepOutput]] = []
        for one in drawn:
            running = self._running.get(one.request)
            if running is not None:
                outputs.append((running, self._output(one, running)))
        if len(self._readings) > 1:
            self._drop_old_readings()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_out, outputs)

    def _output(self, drawn: SampledToken, running: RunningRequest) -> StepOutput:
        cached = self._batching.cached_tokens(drawn.request)
        tracked = running.reading.side.tracked.get(drawn.request) if running.reading else None
        counts = self._counts
        begun = not running.begun and drawn.failure is None
        running.begun |= begun
        self._counts = replace(
            counts,
            prompt_tokens=counts.prompt_tokens + begun * len(running.tokens),
            cached_tokens=counts.cached_tokens + begun * cached,
            generated_tokens=counts.generated_tokens + (drawn.failure is None),
        )
        if tracked is None:
            return StepOutput(drawn, cached)
        return StepOutput(
            drawn, cached, tracked.prompt, tracked.answer, tracked.lost, tracked.fault
        )

    def _drop_old_readings(self) -> None:
        """A reading that was replaced goes with the last request that it follows."""
        with self._following:
            used = {id(running.reading) for running in self._running.values()}
            kept = [r for r in self._readings if r is self._reading or id(r) in used]
            if len(kept) < len(self._readings):
                gone = sum(r.seconds for r in self._readings if r not in kept)
                seconds = self._counts.probe_seconds + gone
                self._counts = replace(self._counts, probe_seconds=seconds)
                self._readings = kept
                self._batching.watch(kept)

    # -- inside, in a thread of the swap's own

    def _replace(self, named: dict[str, Artefact], reading: PagedReading | None) -> None:
        with self._batching.paused():
            self._use(named, reading)
            self._drop_old_readings()
            self._batching.restart()

    def _tidy(self) -> None:
        with suppress(RunError), self._batching.paused():
            self._drop_old_readings()

    def _use(self, named: dict[str, Artefact], reading: PagedReading | None) -> None:
        with self._following:
            if reading is not None:
                for request, running in self._running.items():
                    reading.side.enter(request, running.tokens, wanted=False)
                self._readings = [*self._readings, reading]
            self._probes, self._reading = named, reading
            self._batching.watch(self._readings)

    def _check_leaving(self) -> None:
        """Finds out whether texts can leave this model's passes, between two steps."""
        with self._batching.alone():
            self.backend.check_early_exit()

    def _new_reading(self, probes: Sequence[Artefact]) -> PagedReading | None:
        if not probes:
            return None
        batching, backend = self._batching, self.backend
        return PagedReading(
            probes,
            backend.device,
            backend.dtype,
            batching.num_pages,
            batching.page_tokens,
            backend.reasoning_ids,
        )
