"""Is the ride free under load: the serving engine with probes against itself without probes.

    python -m benchmarks.serving [--pairs 5] [--requests 40] [--in-flight 32] [--tokens 16]

Bare and ridden runs alternate in one process on one engine; a swap of probes empties the prefix
cache, so every run begins alike. Prompts of 30 to 600 tokens; two in three begin with one of four
prefixes that are shared. Answers have a fixed length. Then texts of 64 tokens are classified by a
probe of layers up to 15, with and without the blocks above.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.engines import engine as model_of
from benchmarks.engines import model_parser
from benchmarks.result_file import kind_of, write_result
from benchmarks.ride import RIDERS, probe
from pillion.backends import Backend
from pillion.core import Segment, Tokens
from pillion.metrics import interval
from pillion.probe import Artefact
from pillion.runtime import ContinuousEngine, EngineStats, Event, PagedSettings, Request, TokenEvent

PREFIX_TOKENS = (60, 100, 150, 220)
"""Lengths of the shared beginnings."""
TOP_LAYER = 15
"""Highest layer that the probe of the classified texts reads."""


@dataclass
class Run:
    """What one run over all requests took."""

    seconds: float = 0.0
    processor_seconds: float = 0.0
    first: list[float] = field(default_factory=list[float])
    between: list[float] = field(default_factory=list[float])
    cached_tokens: int = 0
    tokens: int = 0

    def numbers(self) -> dict[str, float]:
        """The benchmark's metrics by name."""
        found = {
            "tokens_per_second": self.tokens / self.seconds,
            "processor_ms_per_token": 1e3 * self.processor_seconds / self.tokens,
            "ms_to_first_token_median": 1e3 * statistics.median(self.first),
            "ms_to_first_token_p95": 1e3 * float(np.quantile(self.first, 0.95)),
        }
        if self.between:
            found["ms_between_tokens_mean"] = 1e3 * statistics.fmean(self.between)
            found["ms_between_tokens_median"] = 1e3 * statistics.median(self.between)
        return found


def prompts(count: int, seed: int) -> list[Tokens]:
    """Random tokens; lengths from 30 to 600, as many short as long ones.

    What is shared is a system prompt, the rest a user's turn.
    """
    draw = random.Random(seed)
    shared = [[draw.randrange(5, 10_000) for _ in range(n)] for n in PREFIX_TOKENS]
    rows: list[Tokens] = []
    for number in range(count):
        length = round(30 * 20 ** draw.random())
        begin = shared[number % 4] if number % 3 else []
        begin = begin if len(begin) < length - 10 else []
        rest = [draw.randrange(5, 10_000) for _ in range(length - len(begin))]
        turns = [Segment(0, len(begin), "system", 0)] if begin else []
        turns.append(Segment(len(begin), length, "user", len(turns)))
        rows.append(Tokens([*begin, *rest], turns))
    return rows


class Answering(Protocol):
    """What `load` needs of an engine."""

    def submit(self, request: Request) -> AsyncGenerator[Event]:
        """The events of a request."""
        ...

    def stats(self) -> EngineStats:
        """What has been done."""
        ...


async def load(engine: Answering, rows: Sequence[Tokens], in_flight: int, num_tokens: int) -> Run:
    """All requests, so many at once; the next begins when one ends."""
    run, turns = Run(), asyncio.Semaphore(in_flight)
    cached = engine.stats().cached_tokens

    async def ask(number: int, ids: Tokens) -> None:
        async with turns:
            last = begin = time.perf_counter()
            async for event in engine.submit(Request(f"{number}", ids, num_tokens)):
                if not isinstance(event, TokenEvent):
                    continue
                now = time.perf_counter()
                if last == begin:
                    run.first.append(now - begin)
                else:
                    run.between.append(now - last)
                last = now
                run.tokens += 1

    begin, processor = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask(number, ids) for number, ids in enumerate(rows)))
    run.seconds = time.perf_counter() - begin
    run.processor_seconds = time.process_time() - processor
    run.cached_tokens = engine.stats().cached_tokens - cached
    return run


async def alternate(
    engine: ContinuousEngine, probes: Sequence[Artefact], pairs: int, run: Callable[[], Any]
) -> list[tuple[Run, Run]]:
    """Bare and ridden in turns, the order swapped every other pair."""
    found: list[tuple[Run, Run]] = []
    for pair in range(pairs):
        one: dict[bool, Run] = {}
        for ridden in (False, True) if pair % 2 == 0 else (True, False):
            await engine.set_probes(probes if ridden else [])
            one[ridden] = await run()
        found.append((one[False], one[True]))
        shown = {k: round(v, 1) for k, v in one[True].numbers().items()}
        print(
            f"pair {pair + 1}: {shown}",
            {k: round(v, 3) for k, v in quotients(*found[-1]).items()},
            flush=True,
        )
    return found


def quotients(bare: Run, ridden: Run) -> dict[str, float]:
    plain = bare.numbers()
    return {name: value / plain[name] for name, value in ridden.numbers().items()}


def rows_of(found: Sequence[tuple[Run, Run]]) -> list[dict[str, Any]]:
    """A result a metric: medians, and the median ratio of neighbours with its interval."""
    results: list[dict[str, Any]] = []
    for name in found[0][0].numbers():
        ratios = np.array([quotients(*pair)[name] for pair in found])
        around = interval(lambda some: float(np.median(some)), ratios)
        assert around is not None
        results.append(
            {
                "metric": name,
                "value": statistics.median(ridden.numbers()[name] for _, ridden in found),
                "bare": statistics.median(bare.numbers()[name] for bare, _ in found),
                "ratio": around.estimate,
                "interval": [around.low, around.high],
            }
        )
    return results


async def under_load(backend: Backend, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = prompts(options.requests, seed=0)
    probes = [probe(backend, f"p{i}", *kind) for i, kind in enumerate(RIDERS[options.riders])]
    settings = PagedSettings(cache_tokens=32768, max_requests=options.in_flight)
    engine = ContinuousEngine(backend, [], settings)
    await engine.start()
    try:
        await load(engine, rows[:2], 2, 3)
        found = await alternate(
            engine,
            probes,
            options.pairs,
            lambda: load(engine, rows, options.in_flight, options.tokens),
        )
        spent = engine.stats().probe_seconds / sum(ridden.seconds for _, ridden in found)
        cached = statistics.median(ridden.cached_tokens for _, ridden in found)
    finally:
        await engine.close()
    total = sum(map(len, rows))
    return [
        *rows_of(found),
        {"metric": "share_of_time_in_probes", "value": spent},
        {"metric": "share_of_prompt_tokens_from_cache", "value": cached / total},
    ]


class Everything:
    """A watcher of the last layer: it keeps the blocks above the probes' running."""

    def start(self, step: object) -> None:
        """Nothing to do."""

    def see(self, layer: int, hidden: object) -> None:
        """Nothing to do."""

    def end(self, cache: object) -> None:
        """Nothing to do."""

    def move(self, cache: object, rows: object) -> None:
        """Nothing to do."""


async def classified(backend: Backend, options: argparse.Namespace) -> dict[str, Any]:
    """Texts a second with the blocks above the highest layer read, and without them."""
    layers = tuple(range(TOP_LAYER + 1))
    low = probe(backend, "low", "gate", 2, layers=layers)
    noise = torch.Generator().manual_seed(0)
    rows = torch.randint(5, 10_000, (options.texts, 64), generator=noise).tolist()
    engine = ContinuousEngine(backend, [low], PagedSettings(cache_tokens=4096))
    await engine.start()
    times: list[tuple[float, float]] = []
    try:
        for pair in range(options.pairs + 1):
            one: dict[bool, float] = {}
            for early in (False, True) if pair % 2 == 0 else (True, False):
                begin = time.perf_counter()
                if early:
                    await engine.classify(rows)
                else:
                    with backend.watch(Everything(), [backend.identity.num_layers]):
                        await engine.classify(rows)
                one[early] = time.perf_counter() - begin
            if pair:  # the first warms up
                times.append((one[False], one[True]))
    finally:
        await engine.close()
    full, early = np.array(times).T
    around = interval(lambda some: float(np.median(some)), full / early)
    assert around is not None
    row = {
        "metric": "classified_texts_per_second",
        "value": len(rows) / float(np.median(early)),
        "full_pass": len(rows) / float(np.median(full)),
        "ratio": around.estimate,
        "interval": [around.low, around.high],
    }
    print(row, flush=True)
    return row


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--riders", choices=list(RIDERS), default="three gates with scopes")
    parser.add_argument("--only", choices=["load", "classify"])
    options = parser.parse_args()
    backend = model_of(options.model, options.device)
    backend.end_ids = frozenset()  # answers have a fixed length
    settings = vars(options) | {"dtype": str(backend.dtype), "riders": options.riders}
    where = kind_of(backend)
    if options.only != "classify":
        results = asyncio.run(under_load(backend, options))
        write_result(f"serving-{options.model}-{where}", results, seed=0, settings=settings)
    if options.only != "load":
        results = [asyncio.run(classified(backend, options))]
        settings |= {"top_layer": TOP_LAYER}
        write_result(f"classify-{options.model}-{where}", results, seed=0, settings=settings)


if __name__ == "__main__":
    main()
