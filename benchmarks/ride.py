"""Is the ride free: time to first token, time per token and peak memory, with and without probes.

    python -m benchmarks.ride [--model embedded|llama-3.2-3b] [--pairs 20] [--prompts 256] ...

Bare and ridden runs alternate in one process; every ratio is of neighbours, the median is quoted.
Each is told by the clock and by the processor's own time. Prompts are a system prompt and a user's
turn of the same length, for probes that read some turns only.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Generator
from typing import Any

import torch

from benchmarks.engines import engine, model_parser
from benchmarks.result_file import kind_of, write_result
from pillion.backends import Backend
from pillion.core import Scope, Segment, Tokens
from pillion.probe import Artefact
from pillion.probe.untrained import untrained
from pillion.runtime import Sampler, Sampling, decode_steps, watch

RIDERS: dict[str, list[tuple[str, int, Scope]]] = {
    "one gate": [("gate", 4, "all")],
    "three gates": [("gate", 4, "all")] * 3,
    "three gates with scopes": [
        ("gate", 4, "last-user"),
        ("gate", 4, "user"),
        ("gate", 4, "response"),
    ],
    "mha": [("mha", 4, "all")],
}
"""What rides: aggregators, their numbers of labels and what they read. Three gates are 144 columns
a layer."""

METRICS = ("ms_to_first_token", "ms_per_token")
CLOCKS = {"": time.perf_counter, "processor_": time.process_time}


def probe(
    backend: Backend,
    name: str,
    aggregator: str,
    num_labels: int,
    scope: Scope = "all",
    layers: tuple[int, ...] | None = None,
    **settings: Any,
) -> Artefact:
    """An untrained probe, of all layers or some: time and memory do not depend on the weights.

    Of one label it is a binary one; `settings` are the aggregator's.
    """
    task = "multiclass" if num_labels > 1 else "binary"
    facts: dict[str, Any] = {
        "task": task,
        "labels": tuple("abcdefgh"[: max(num_labels, 2)]),
        "scope": scope,
    }
    return untrained(name, backend.identity, aggregator, layers, settings, **facts)


@contextlib.contextmanager
def riding(backend: Backend, probes: list[Artefact]) -> Generator[Any]:
    """A reading, or None for the bare model."""
    if not probes:
        yield None
        return
    with watch(backend, probes) as reading:
        yield reading


Times = dict[str, tuple[float, float]]
"""By each clock, seconds to the first token and per token after it."""


def generation(
    backend: Backend, probes: list[Artefact], rows: list[Tokens], num_tokens: int
) -> Times:
    """Times of one run: to the first token, verdicts of the prompt included, and per token."""
    ids = torch.tensor(rows)
    mask, sampler = torch.ones_like(ids, dtype=torch.bool), Sampler(Sampling(), backend.device)
    with torch.inference_mode(), riding(backend, probes) as reading:
        if reading:
            reading.expect(rows, answering=True)
        begin = now(backend)
        steps = decode_steps(backend, ids, mask, num_tokens, sampler)
        next(steps)
        if reading:
            reading.verdicts()
            reading.cut()
        first = now(backend)
        for _ in range(num_tokens - 1):
            next(steps)
            if reading:
                reading.verdicts()
        end = now(backend)
    rest = num_tokens - 1
    return {
        clock: (first[clock] - begin[clock], (end[clock] - first[clock]) / rest) for clock in CLOCKS
    }


def now(backend: Backend) -> dict[str, float]:
    if backend.device.type == "cuda":
        torch.cuda.synchronize()
    return {name: clock() for name, clock in CLOCKS.items()}


def ratios(
    backend: Backend, probes: list[Artefact], rows: list[Tokens], num_tokens: int, pairs: int
) -> list[dict[str, Any]]:
    """Bare and ridden in turns, the order swapped every other pair; medians and quartiles."""
    for riding_now in ([], probes):  # the first run of each warms up
        generation(backend, riding_now, rows, 4)
    runs: list[tuple[Times, Times]] = []
    for pair in range(pairs):
        one: dict[bool, Times] = {}
        for ridden in (False, True) if pair % 2 == 0 else (True, False):
            one[ridden] = generation(backend, probes if ridden else [], rows, num_tokens)
        runs.append((one[False], one[True]))
    return [
        {"metric": clock + metric, **compared([(a[clock][at], b[clock][at]) for a, b in runs])}
        for clock in CLOCKS
        for at, metric in enumerate(METRICS)
    ]


def compared(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of bare and ridden seconds, and of their quotients with quartiles."""
    quotients = sorted(ridden / bare for bare, ridden in pairs)
    return {
        "value": 1e3 * statistics.median(ridden for _, ridden in pairs),
        "bare": 1e3 * statistics.median(bare for bare, _ in pairs),
        "ratio": statistics.median(quotients),
        "interval": [quotients[len(quotients) // 4], quotients[3 * len(quotients) // 4]],
    }


def prompt(length: int, seed: int) -> Tokens:
    """Random tokens: a system prompt, a user's turn, and four that open the answer."""
    noise = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 10_000, (length,), generator=noise).tolist()
    middle, end = length // 2, max(length // 2 + 1, length - 4)
    return Tokens(ids, [Segment(0, middle, "system", 0), Segment(middle, end, "user", 1)])


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, nargs="+", default=[256])
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    backend = engine(options.model, options.device)
    results: list[dict[str, Any]] = []
    for length in options.prompts:
        for batch in options.batches:
            rows = [prompt(length, seed) for seed in range(batch)]
            for rider, kinds in RIDERS.items():
                probes = [probe(backend, f"p{i}", *kind) for i, kind in enumerate(kinds)]
                where = {"rider": rider, "prompt_tokens": length, "batch": batch}
                for row in ratios(backend, probes, rows, options.tokens, options.pairs):
                    print(where, {k: v for k, v in row.items() if k != "interval"}, flush=True)
                    results.append(row | where)
    settings = vars(options) | {"dtype": backend.identity.dtype}
    write_result(f"ride-{options.model}-{kind_of(backend)}", results, seed=0, settings=settings)


if __name__ == "__main__":
    main()
