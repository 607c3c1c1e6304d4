"""What a swap of probes leaves in the memory of a server without other requests.

    python -m benchmarks.swaps [--swaps 400]

The server's resident set after every swap, two probes in turn; the first quarter of the swaps warms
up. On an idle server no step of the engine comes that would free what no request reads any more.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.result_file import as_results, write_result
from benchmarks.soak import random_probe, start
from pillion.runtime import LanguageModel


def swapped(url: str, process: psutil.Process, num_swaps: int) -> tuple[list[int], list[float]]:
    """Resident bytes and seconds after each swap, and of each."""
    sizes, seconds = list[int](), list[float]()
    with httpx.Client(base_url=url, timeout=120) as http:
        for number in range(num_swaps):
            begin = time.perf_counter()
            answer = http.put("/v1/probes/other", json={"path": ("two", "one")[number % 2]})
            answer.raise_for_status()
            seconds.append(time.perf_counter() - begin)
            sizes.append(process.memory_info().rss)
    return sizes, seconds


def rows(sizes: list[int], seconds: list[float]) -> list[dict[str, Any]]:
    """The slope of a line through the sizes, and how long a swap takes."""
    warm = len(sizes) // 4
    kept = np.array(sizes[warm:], float)
    slope = float(np.polyfit(np.arange(len(kept)), kept, 1)[0])
    values = {
        "bytes_a_swap": (slope, None),
        "bytes_after_warming_up": (float(kept[0]), None),
        "bytes_at_the_end": (float(kept[-1]), float(kept[0])),
        "seconds_a_swap": (float(np.median(seconds[warm:])), None),
    }
    return as_results(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--swaps", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = LanguageModel.load(options.model, options.dtype)
        for seed, one in enumerate(("steady", "one", "two")):
            random_probe(model, one, seed).save(folder / one)
        del model
        process, url = start(folder, options)
        try:
            sizes, seconds = swapped(url, psutil.Process(process.pid), options.swaps)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    results = rows(sizes, seconds)
    for row in results:
        print({k: row[k] for k in ("metric", "value", "baseline", "ratio")})
    write_result(f"swaps-{options.model}", results, seed=0, settings=vars(options))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
