"""Extraction on one and on two Ray workers of one thread, against one thread without Ray, in turns.

    python -m benchmarks.ray_scaling [--rows 1000] [--rounds 3]

Both pools live through all rounds on a cluster of this machine; a round fills a cache by each of
the three. What a lost worker and a lost driver cost is measured beside it: the start of a worker
up to its first answer, the tokenising of texts, the reading of kept shards.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import pillion.extract.fill
from benchmarks.result_file import DATA, data_entry, write_result
from pillion.backends import load_backend
from pillion.cache import CacheSpec, CacheWriter
from pillion.cluster import Tokenise, WorkerPool, connect, extract_on, plan_on, tokenise_on
from pillion.data import read_rows
from pillion.extract import cache_spec, encode, extract
from pillion.metrics import interval

SHARD_BYTES = 16 * 2**20
"""A sixteenth of the usual size, so that two workers have enough shards to share in a short run."""


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def small_spec(*arguments: Any) -> CacheSpec:
    return replace(cache_spec(*arguments), shard_bytes=SHARD_BYTES)


def start_cluster() -> Any:
    """Two nodes; a core of each counts twice, as the pools work in turns."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    os.environ |= settings | {"RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    return cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    torch.set_num_threads(1)
    vars(pillion.extract.fill)["cache_spec"] = small_spec
    cluster = start_cluster()
    try:
        with connect(cluster.address) as ray:
            measure(ray, options)
    finally:
        cluster.shutdown()


def measure(ray: Any, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure_in(Path(folder), ray, options)


def measure_in(work: Path, ray: Any, options: argparse.Namespace) -> None:
    path = DATA / "emotion" / "train.parquet"
    texts = read_rows(path).texts
    some = texts[: options.rows]
    pools = {number: WorkerPool(ray, options.model, workers=number) for number in (1, 2)}
    # A worker's start and the loading of its model, nothing else.
    starts = [seconds(lambda: pools[1].maker)]
    pq.write_table(pa.table({"text": list(some)}), work / "rows.parquet")
    plan = plan_on(pools[2], str(work / "rows.parquet"), None, None, work)
    tokens_there = tokenise_on(pools[2], plan, Tokenise(work / "tokens", "raw", "error", "all"))
    backend = load_backend(options.model)
    encoded = encode(backend, some, "raw")
    layers = range(encoded.identity.num_layers + 1)
    spec = small_spec(encoded.identity, layers, "benchmark", encoded.token_ids)
    tokens = sum(map(len, encoded.token_ids))
    assert tuple(tokens_there.lengths) == tuple(spec.lengths)

    def filled(number: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            if number:
                return seconds(lambda: extract_on(pools[number], tokens_there, spec, cache))
            rows = encoded.token_ids
            return seconds(lambda: extract(backend, rows, layers, cache, "benchmark").close())

    filled(2)  # both workers have loaded their models and touched their memory
    filled(1)
    times: list[list[float]] = []
    for number in range(options.rounds):
        order = [0, 1, 2] if number % 2 else [2, 1, 0]
        took = {which: filled(which) for which in order}
        times.append([took[0], took[1], took[2]])
        rates_now = "  ".join(f"{tokens / took[which]:.0f}" for which in (0, 1, 2))
        print(f"{rates_now} tokens/s", file=sys.stderr)  # while Ray runs, stdout is nowhere
    results = [*rates(np.array(times), tokens), *restarts(backend, texts, encoded, starts)]
    settings = {"model": options.model, "rows": options.rows, "rounds": options.rounds}
    settings |= {"tokens": tokens, "shard_bytes": SHARD_BYTES, "template": "raw"}
    settings |= {"dim": encoded.identity.dim, "dtype": encoded.identity.dtype}
    settings |= {"layers": len(layers), "text_bytes": sum(len(text.encode()) for text in some)}
    write_result(
        "ray-scaling",
        results,
        seed=0,
        settings=settings,
        data=[data_entry(path, "train, first rows")],
    )


def rates(times: np.ndarray, tokens: int) -> list[dict[str, Any]]:
    """Tokens a second of each, and two workers against one of either kind."""
    local, one, two = times.T
    rows: list[dict[str, Any]] = [
        {
            "metric": "extract_tokens_per_second",
            "run": name,
            "value": tokens / float(np.median(took)),
        }
        for name, took in (("local", local), ("one-worker", one), ("two-workers", two))
    ]
    for name, took in (("local", local), ("one-worker", one)):
        found = interval(lambda ratios: float(np.median(ratios)), took / two)
        assert found is not None
        rows.append(
            {
                "metric": "two_workers_against",
                "run": name,
                "value": found.estimate,
                "interval": [found.low, found.high],
            }
        )
    return rows


def restarts(
    backend: Any, texts: tuple[str, ...], encoded: Any, starts: list[float]
) -> list[dict[str, Any]]:
    """What is paid again after a worker or the driver was lost."""
    sample = texts[:4000]
    took = seconds(lambda: encode(backend, sample, "raw"))
    num_tokens = sum(map(len, encode(backend, sample, "raw").token_ids))
    with tempfile.TemporaryDirectory() as folder:
        layers = range(encoded.identity.num_layers + 1)
        spec = small_spec(encoded.identity, layers, "benchmark", encoded.token_ids)
        extract(backend, encoded.token_ids, layers, Path(folder) / "cache", "benchmark").close()
        reader = CacheWriter(Path(folder) / "cache", spec)
        read = seconds(lambda: [reader.written(shard) for shard in spec.shards])
    return [
        {"metric": "worker_start_seconds", "value": starts[0]},
        {"metric": "encode_tokens_per_second", "value": num_tokens / took},
        {"metric": "reread_bytes_per_second", "value": spec.num_bytes / read},
    ]


if __name__ == "__main__":
    main()
