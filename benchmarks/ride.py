"""Is the ride free: time to first token, time per token and peak memory, with and without probes.

    python -m benchmarks.ride [--model embedded|llama-3.2-3b] [--pairs 20] [--prompts 256] ...

Bare and ridden runs alternate in one process; every ratio is of neighbours, the median is quoted.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.engines import engine
from benchmarks.result_file import write_result
from pillion.backends import Backend
from pillion.core import Shape
from pillion.probe import Artefact, build
from pillion.runtime import Sampler, Sampling, decode_steps, watch

RIDERS: dict[str, list[tuple[str, int]]] = {
    "one gate": [("gate", 4)],
    "three gates": [("gate", 4), ("gate", 4), ("gate", 4)],
    "mha": [("mha", 4)],
}
"""What rides: aggregators and their numbers of labels. Three gates are 144 columns a layer."""


def probe(
    backend: Backend,
    name: str,
    aggregator: str,
    num_labels: int,
    layers: tuple[int, ...] | None = None,
) -> Artefact:
    """An untrained probe, of all layers or some: time and memory do not depend on the weights."""
    identity = backend.identity
    layers = tuple(range(identity.num_layers + 1)) if layers is None else layers
    network = build(aggregator, Shape(len(layers), identity.dim, num_labels))
    return Artefact.of(
        name,
        network,
        probe=aggregator,
        task="multiclass",
        labels=tuple("abcdefgh"[:num_labels]),
        layers=layers,
        template="raw",
        model=identity,
        data={"sha256": "", "path": "none", "num_rows": 0, "split": "none"},
        seed=0,
        training={},
        metrics={},
    )


@contextlib.contextmanager
def riding(backend: Backend, probes: list[Artefact]) -> Iterator[Any]:
    """A reading, or None for the bare model."""
    if not probes:
        yield None
        return
    with watch(backend, probes) as reading:
        yield reading


def generation(
    backend: Backend, probes: list[Artefact], ids: torch.Tensor, num_tokens: int
) -> tuple[float, float]:
    """Seconds to the first token (verdicts of the prompt included) and per token after it."""
    mask, sampler = torch.ones_like(ids, dtype=torch.bool), Sampler(Sampling(), backend.device)
    with torch.inference_mode(), riding(backend, probes) as reading:
        _wait(backend)
        begin = time.perf_counter()
        steps = decode_steps(backend, ids, mask, num_tokens, sampler)
        next(steps)
        if reading:
            reading.verdicts()
            reading.cut()
        _wait(backend)
        first = time.perf_counter()
        for _ in range(num_tokens - 1):
            next(steps)
            if reading:
                reading.verdicts()
        _wait(backend)
    return first - begin, (time.perf_counter() - first) / (num_tokens - 1)


def _wait(backend: Backend) -> None:
    if backend.device.type == "cuda":
        torch.cuda.synchronize()


def ratios(
    backend: Backend, probes: list[Artefact], ids: torch.Tensor, num_tokens: int, pairs: int
) -> list[dict[str, Any]]:
    """Bare and ridden in turns, the order swapped every other pair; medians and quartiles."""
    generation(backend, [], ids, 4), generation(backend, probes, ids, 4)
    runs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for pair in range(pairs):
        if pair % 2:
            ridden = generation(backend, probes, ids, num_tokens)
            runs.append((generation(backend, [], ids, num_tokens), ridden))
        else:
            bare = generation(backend, [], ids, num_tokens)
            runs.append((bare, generation(backend, probes, ids, num_tokens)))
    found: list[dict[str, Any]] = []
    for place, metric in enumerate(("ms_to_first_token", "ms_per_token")):
        quotients = sorted(ridden[place] / bare[place] for bare, ridden in runs)
        found.append(
            {
                "metric": metric,
                "value": 1e3 * statistics.median(ridden[place] for _, ridden in runs),
                "bare": 1e3 * statistics.median(bare[place] for bare, _ in runs),
                "ratio": statistics.median(quotients),
                "interval": [quotients[len(quotients) // 4], quotients[3 * len(quotients) // 4]],
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, nargs="+", default=[256])
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    backend = engine(options.model, options.device)
    results: list[dict[str, Any]] = []
    for length in options.prompts:
        for batch in options.batches:
            ids = torch.randint(
                5, 10_000, (batch, length), generator=torch.Generator().manual_seed(0)
            )
            for rider, kinds in RIDERS.items():
                probes = [probe(backend, f"p{i}", *kind) for i, kind in enumerate(kinds)]
                where = {"rider": rider, "prompt_tokens": length, "batch": batch}
                for row in ratios(backend, probes, ids, options.tokens, options.pairs):
                    print(where, {k: v for k, v in row.items() if k != "interval"}, flush=True)
                    results.append(row | where)
    device = (
        torch.cuda.get_device_name().lower().replace(" ", "-")
        if backend.device.type == "cuda"
        else "cpu"
    )
    settings = vars(options) | {"dtype": backend.identity.dtype}
    write_result(f"ride-{options.model}-{device}", results, seed=0, settings=settings)


if __name__ == "__main__":
    main()
