"""What 10^9 and 10^12 tokens cost, computed from the rates that `benchmarks.ray_scaling` measured.

    python -m benchmarks.scale_plan [--tokens-per-second RATE] [--price 0.04] [--workers 64]

Nothing is measured here: every number is arithmetic on `results/ray-scaling.json` and the options,
which stand in the result's settings. Give the rate and the hourly price of your own worker (a GPU,
say) to plan for it; `--show` prints the plan and leaves the result file alone.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

from benchmarks.result_file import RESULTS, write_result
from pillion.cache import SHARD_BYTES
from pillion.cluster.extract import MOST_SHARDS

TOTALS = {"1e9": 10**9, "1e12": 10**12}
FEW_LAYERS, PCA_DIM = 4, 64

GPU_RATE = 100_000
"""Tokens a second of a fast worker, as an example of what a file system would have to take."""


@dataclass(frozen=True)
class Machine:
    """What a worker does and costs.

    Attributes:
        rate: tokens a second.
        price: of an hour, in any currency.
        reread_rate: bytes a second that it reads and hashes.
        start_seconds: until a new worker gives its first answer.
    """

    rate: float
    price: float
    reread_rate: float
    start_seconds: float


def choices(num_layers: int, dim: int) -> dict[str, tuple[float, str]]:
    """Bytes a token of each way to keep states (a number takes two), and if pillion writes it."""
    full = 2.0 * num_layers * dim
    return {
        "none": (0.0, "yes"),
        "all": (full, "yes"),
        f"{FEW_LAYERS}-layers": (full * FEW_LAYERS / num_layers, "yes"),
        "int8": (full / 2, "no"),
        f"pca-{PCA_DIM}": (2.0 * num_layers * PCA_DIM, "no"),
    }


def measured() -> tuple[dict[str, Any], dict[str, float]]:
    """Settings of the measurement, and its numbers by name."""
    content = json.loads((RESULTS / "ray-scaling.json").read_text())
    numbers = {
        " ".join([entry["metric"], *([entry["run"]] if "run" in entry else [])]): entry["value"]
        for entry in content["results"]
    }
    return content["settings"], numbers


def plan(machine: Machine, settings: dict[str, Any], num_workers: int) -> list[dict[str, Any]]:
    """All entries of the result file."""
    num_layers, dim = settings["layers"], settings["dim"]
    text_bytes = settings["text_bytes"] / settings["tokens"]
    rows: list[dict[str, Any]] = [
        {"metric": "worker_hours_per_million_tokens", "value": 1e6 / machine.rate / 3600},
        {
            "metric": "price_per_million_tokens",
            "value": 1e6 / machine.rate / 3600 * machine.price,
        },
        {"metric": "text_bytes_per_token", "value": text_bytes},
        {"metric": "lost_worker_seconds", "value": lost_worker_seconds(machine, num_layers, dim)},
        {
            "metric": "gpu_cluster_bytes_per_second",
            "value": GPU_RATE * choices(num_layers, dim)["all"][0] * num_workers,
        },
    ]
    for name, total in TOTALS.items():
        rows += totals(name, total, machine, num_workers, text_bytes)
        for choice, (token_bytes, written) in choices(num_layers, dim).items():
            rows.append(storage(name, total, choice, token_bytes, machine, num_workers, written))
    return rows


def lost_worker_seconds(machine: Machine, num_layers: int, dim: int) -> float:
    """Work that is done again at most when a worker is lost, and the start of another one."""
    unit_tokens = MOST_SHARDS * SHARD_BYTES / (2 * num_layers * dim)
    return unit_tokens / machine.rate + machine.start_seconds


def totals(
    name: str, total: int, machine: Machine, num_workers: int, text_bytes: float
) -> list[dict[str, Any]]:
    """What does not depend on how states are kept."""
    hours = total / machine.rate / 3600
    numbers = {
        "worker_hours": hours,
        "price": hours * machine.price,
        "days": hours / num_workers / 24,
        "workers_for_a_day": math.ceil(hours / 24),
        "input_bytes": total * text_bytes,
    }
    return [{"metric": metric, "tokens": name, "value": value} for metric, value in numbers.items()]


def storage(
    name: str,
    total: int,
    choice: str,
    token_bytes: float,
    machine: Machine,
    num_workers: int,
    written: str,
) -> dict[str, Any]:
    """Disk, files and network of one way of keeping states."""
    num_bytes = total * token_bytes
    return {
        "metric": "storage",
        "tokens": name,
        "choice": choice,
        "written_by_pillion": written,
        "token_bytes": token_bytes,
        "bytes": num_bytes,
        "shards": math.ceil(num_bytes / SHARD_BYTES),
        "worker_bytes_per_second": machine.rate * token_bytes,
        "cluster_bytes_per_second": machine.rate * token_bytes * num_workers,
        # After the driver was lost; shared by all workers.
        "reread_hours": num_bytes / machine.reread_rate / num_workers / 3600,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens-per-second", type=float, help="of your worker")
    parser.add_argument("--price", type=float, default=0.04, help="of an hour of it")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    settings, numbers = measured()
    machine = Machine(
        # Of two workers side by side, as on a cluster every core is busy.
        rate=options.tokens_per_second or numbers["extract_tokens_per_second two-workers"] / 2,
        price=options.price,
        reread_rate=numbers["reread_bytes_per_second"],
        start_seconds=numbers["worker_start_seconds"],
    )
    entries = plan(machine, settings, options.workers)
    if options.show:
        print(json.dumps(entries, indent=1))
        return
    chosen = {"price_of_a_worker_hour": options.price, "workers": options.workers}
    chosen |= {"tokens_per_second": machine.rate, "model": settings["model"]}
    write_result("scale-plan", entries, seed=0, settings={**chosen, "from": "ray-scaling.json"})


if __name__ == "__main__":
    main()
