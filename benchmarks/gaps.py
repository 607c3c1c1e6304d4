"""Do streams go on while texts are classified: `python -m benchmarks.gaps [--rounds 5]`.

Streams with a probe on an engine, alone and beside clients that never stop classifying, in turns:
the gaps between a stream's tokens. Then texts a second of an idle engine, against the same texts
read in batches without an engine, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.engines import engine as model_of
from benchmarks.engines import model_parser
from benchmarks.result_file import write_result
from benchmarks.ride import probe
from pillion.backends import Backend
from pillion.core import Tokens
from pillion.metrics import interval
from pillion.probe import Artefact
from pillion.runtime import ContinuousEngine, LanguageModel, PagedSettings, Request, TokenEvent

TEXT_TOKENS = 80
PROMPT_TOKENS = 60


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--texts", type=int, default=60, help="of a call to classify")
    parser.add_argument("--clients", type=int, default=2, help="that classify without a pause")
    options = parser.parse_args()
    backend = model_of(options.model, options.device)
    backend.end_ids = frozenset()  # answers have a fixed length
    results = asyncio.run(measured(backend, probe(backend, "p", "gate", 2), options))
    settings = vars(options) | {"dtype": backend.identity.dtype}
    write_result(f"gaps-{options.model}", results, seed=0, settings=settings)


async def measured(
    backend: Backend, rider: Artefact, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Gaps of the streams, then the throughput of an idle engine."""
    engine = ContinuousEngine(backend, [rider], PagedSettings(cache_tokens=8192))
    texts = rows(options.texts, TEXT_TOKENS, 0)
    await engine.start()
    try:
        await engine.classify(texts)
        found: dict[bool, list[list[float]]] = {False: [], True: []}
        for number in range(options.rounds):
            for busy in (False, True) if number % 2 == 0 else (True, False):
                gaps = await streamed(engine, texts if busy else [], number, options)
                found[busy].append(gaps)
                print(f"{busy=} worst {max(gaps):.3f} median {statistics.median(gaps):.3f}")
        speed = [await pair(engine, backend, rider, texts, n) for n in range(options.rounds)]
    finally:
        await engine.close()
    return [
        *(line for busy in (False, True) for line in told(found[busy], busy)),
        throughput(speed),
    ]


async def streamed(
    engine: ContinuousEngine, texts: list[Tokens], number: int, options: argparse.Namespace
) -> list[float]:
    """Seconds between tokens of some streams, beside clients that classify the texts."""
    prompts = rows(options.streams, PROMPT_TOKENS, 1 + number)
    gaps: list[float] = []

    async def stream(name: str, prompt: Tokens) -> None:
        last: float | None = None
        async for event in engine.submit(Request(name, prompt, options.tokens)):
            if isinstance(event, TokenEvent):
                now = time.perf_counter()
                if last is not None:
                    gaps.append(now - last)
                last = now

    async def classify() -> None:
        while True:
            await engine.classify(texts)

    clients = [asyncio.create_task(classify()) for _ in range(options.clients if texts else 0)]
    await asyncio.gather(*(stream(f"{number} {i}", row) for i, row in enumerate(prompts)))
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return gaps


async def pair(
    engine: ContinuousEngine, backend: Backend, rider: Artefact, texts: list[Tokens], number: int
) -> tuple[float, float]:
    """Seconds of the idle engine, and of batches without an engine."""
    times = dict[bool, float]()
    for served in (False, True) if number % 2 == 0 else (True, False):
        begin = time.perf_counter()
        if served:
            await engine.classify(texts)
        else:
            LanguageModel(backend).score_rows(texts, [rider])
        times[served] = time.perf_counter() - begin
    return times[True], times[False]


def told(rounds: list[list[float]], busy: bool) -> list[dict[str, Any]]:
    """Medians over the rounds of their worst and median gap, and of the quotient."""
    where = {"classifying": busy, "rounds": len(rounds)}
    worst = [max(gaps) / statistics.median(gaps) for gaps in rounds]
    return [
        {
            "metric": "worst_gap_over_median",
            "value": statistics.median(worst),
            "interval": [min(worst), max(worst)],
            **where,
        },
        *(
            {"metric": f"{name}_gap_seconds", "value": statistics.median(map(of, rounds)), **where}
            for name, of in (("worst", max), ("median", statistics.median))
        ),
    ]


def throughput(times: list[tuple[float, float]]) -> dict[str, Any]:
    """Texts a second of an idle engine as a share of those in batches."""
    ratios = np.array([batches / served for served, batches in times])
    around = interval(lambda some: float(np.median(some)), ratios)
    assert around is not None
    return {
        "metric": "idle_classify_throughput",
        "value": statistics.median(served for served, _ in times),
        "baseline": statistics.median(batches for _, batches in times),
        "ratio": around.estimate,
        "interval": [around.low, around.high],
    }


def rows(count: int, tokens: int, seed: int) -> list[Tokens]:
    """Rows of `tokens` random token ids each."""
    noise = torch.Generator().manual_seed(seed)
    return [
        Tokens(row) for row in torch.randint(5, 10_000, (count, tokens), generator=noise).tolist()
    ]


if __name__ == "__main__":
    main()
