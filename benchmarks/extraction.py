"""Extraction's tokens a second against the bare model's, on the same batches, in turns.

    python -m benchmarks.extraction [--rows 1100] [--rounds 5]

A round runs the bare forward pass over all rows and then fills a cache with them, writing and
hashing included; the next round goes the other way round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.result_file import DATA, data_entry, kind_of, write_result
from pillion.backends import Backend, load_backend
from pillion.cache import CacheSpec
from pillion.core import Tokens
from pillion.data import read_rows
from pillion.extract import cache_spec, encode_rows, extract
from pillion.extract.collector import pad
from pillion.extract.fill import shard_batches
from pillion.metrics import interval


def bare_pass(backend: Backend, spec: CacheSpec, token_ids: list[Tokens]) -> None:
    """The forward passes of an extraction, and nothing else."""
    for shard in spec.shards:
        for batch in shard_batches(shard, token_ids, "all"):
            backend.forward(*pad([token_ids[shard.row_ids[place]] for place in batch]))


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    path = DATA / "emotion" / "train.parquet"
    backend = load_backend(options.model)
    texts = read_rows(path).texts[: options.rows]
    token_ids = encode_rows(backend, texts, "raw")
    layers = range(backend.identity.num_layers + 1)
    spec = cache_spec(backend.identity, layers, "benchmark", token_ids)
    tokens = sum(spec.lengths)

    def filled() -> None:
        with tempfile.TemporaryDirectory() as folder:
            extract(backend, token_ids, layers, Path(folder) / "cache", "benchmark").close()

    def bare() -> None:
        bare_pass(backend, spec, token_ids)

    bare()
    times: list[tuple[float, float]] = []
    for number in range(options.rounds):
        if number % 2:
            full, plain = seconds(filled), seconds(bare)
        else:
            plain, full = seconds(bare), seconds(filled)
        times.append((plain, full))
        print(
            f"round {number + 1}: bare {tokens / plain:.0f}, extract {tokens / full:.0f} tokens/s"
        )
    plain, full = np.array(times).T
    found = interval(lambda ratios: float(np.median(ratios)), plain / full)
    assert found is not None
    row = {
        "metric": "extract_tokens_per_second",
        "value": tokens / float(np.median(full)),
        "bare": tokens / float(np.median(plain)),
        "ratio": found.estimate,
        "interval": [found.low, found.high],
    }
    settings = {"model": options.model, "rows": options.rows, "rounds": options.rounds}
    settings |= {"tokens": tokens, "shards": len(spec.shards), "template": "raw"}
    data = [data_entry(path, "train, first rows")]
    name = f"extraction-{options.model}-{kind_of(backend)}"
    write_result(name, [row], seed=0, settings=settings, data=data)


if __name__ == "__main__":
    main()
