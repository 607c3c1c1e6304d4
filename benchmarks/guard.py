"""Against guard-then-serve: a second model of the same size must classify before serving starts.

    python -m benchmarks.guard [--tokens 1 16 64 256] [--in-flight 8] [--requests 8] [--rounds 1]

Three ways to serve the same requests, in turns in one process: probes ride along (three gates,
labels of prompt and answer); a separate copy of the model classifies the prompt first, then a bare
engine answers; it classifies prompt and answer. The guard batches the calls that wait for it, and
runs beside the engine on the same processor.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Any

from benchmarks.engines import engine as model_of
from benchmarks.engines import model_parser
from benchmarks.result_file import write_result
from benchmarks.ride import RIDERS, probe
from benchmarks.serving import Answering, Run, load, prompts
from pillion.backends import Backend
from pillion.backends.transformers import TransformersBackend
from pillion.probe import Artefact
from pillion.runtime import ContinuousEngine, EngineStats, Event, PagedSettings, Request, TokenEvent
from pillion.runtime.chunked_passes import ChunkedPasses
from pillion.runtime.classifier import RowClassifier

RIDING, PROMPT, BOTH = "probes ride", "guard on prompts", "guard on prompts and answers"


class Guarded:
    """An engine behind a guard that must have spoken first.

    Args:
        engine: without probes.
        guard: another copy of the model.
        artefacts: what the guard says.
        answers: whether it reads answers too.
    """

    def __init__(
        self,
        engine: ContinuousEngine,
        guard: RowClassifier,
        artefacts: Sequence[Artefact],
        answers: bool,
    ) -> None:
        self.engine, self.guard = engine, guard
        self.artefacts, self.answers = artefacts, answers

    async def submit(self, request: Request) -> AsyncGenerator[Event]:
        """The events of a request, once the guard has read its prompt."""
        await self.guard.classify([request.token_ids], self.artefacts)
        answer: list[int] = []
        async for event in self.engine.submit(request):
            if isinstance(event, TokenEvent):
                answer.append(event.token_id)
            yield event
        if self.answers:
            await self.guard.classify([[*request.token_ids, *answer]], self.artefacts)

    def stats(self) -> EngineStats:
        """Counts of the engine that is guarded."""
        return self.engine.stats()


def model_bytes(backend: Backend) -> int:
    assert isinstance(backend, TransformersBackend)
    tied = {p.data_ptr(): p.numel() * p.element_size() for p in backend.model.parameters()}
    return sum(tied.values())


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    served, second = (model_of(options.model, options.device) for _ in range(2))
    served.end_ids = frozenset()  # answers have a fixed length
    probes = [probe(served, f"p{i}", *kind) for i, kind in enumerate(RIDERS["three gates"])]
    guard = RowClassifier(ChunkedPasses(second, nullcontext))
    settings = PagedSettings(cache_tokens=16384, max_requests=options.in_flight)
    engine = ContinuousEngine(served, [], settings)
    ways: dict[str, tuple[Answering, list[Artefact]]] = {
        RIDING: (engine, probes),
        PROMPT: (Guarded(engine, guard, probes[:1], answers=False), []),
        BOTH: (Guarded(engine, guard, probes[:1], answers=True), []),
    }
    runs: dict[tuple[str, int, int], list[Run]] = {}
    async with AsyncExitStack() as stack:
        await engine.start()
        stack.push_async_callback(engine.close)
        await load(ways[PROMPT][0], prompts(2, seed=9), 2, 2)
        for turn in range(options.rounds):
            for tokens in options.tokens:
                for in_flight in (1, options.in_flight) if tokens == 1 else (options.in_flight,):
                    for name in list(ways)[:: -1 if turn % 2 else 1]:
                        answering, riders = ways[name]
                        await engine.set_probes(riders)
                        run = await load(
                            answering, prompts(options.requests, seed=turn), in_flight, tokens
                        )
                        runs.setdefault((name, tokens, in_flight), []).append(run)
                        print(name, tokens, in_flight, run.numbers(), flush=True)
        await engine.set_probes(probes)
        added = engine.probe_bytes
    return [*rows_of(runs), *memory(served, second, added)]


def rows_of(runs: dict[tuple[str, int, int], list[Run]]) -> list[dict[str, Any]]:
    """A result a way and metric; ratios are of the ride to the guard's, larger is better for us."""
    results: list[dict[str, Any]] = []
    for (name, tokens, in_flight), some in runs.items():
        ridden = runs[RIDING, tokens, in_flight]
        for metric in ("tokens_per_second", "ms_to_first_token_median"):
            mine, theirs = (
                statistics.median(run.numbers()[metric] for run in each) for each in (ridden, some)
            )
            row = {"way": name, "answer_tokens": tokens, "in_flight": in_flight}
            gain = mine / theirs if metric == "tokens_per_second" else theirs / mine
            results.append({"metric": metric, "value": theirs, "gain_of_the_ride": gain} | row)
    return results


def memory(served: Backend, second: Backend, added: int) -> list[dict[str, Any]]:
    """Bytes of weights, and of what the probes add to them."""
    mine, theirs = model_bytes(served) + added, model_bytes(served) + model_bytes(second)
    return [
        {"metric": "bytes", "way": RIDING, "value": mine, "of_probes": added},
        {"metric": "bytes", "way": PROMPT, "value": theirs, "ratio": theirs / mine},
    ]


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    results = asyncio.run(measure(options))
    settings = vars(options) | {"riders": RIDERS["three gates"]}
    write_result(f"guard-{options.model}-cpu", results, seed=0, settings=settings)


if __name__ == "__main__":
    main()
