"""Result files: one JSON object a benchmark, with everything needed to doubt or repeat it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pillion.backends import Backend
from pillion.core.files import replace_file
from pillion.errors import ConfigError
from pillion.provenance import commit, provenance

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("PILLION_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


def write_result(
    name: str,
    results: list[dict[str, Any]],
    *,
    seed: int,
    settings: dict[str, Any],
    data: list[dict[str, str]] | None = None,
) -> Path:
    """Writes `results/NAME.json` under a temporary name, then renames it.

    Args:
        name: of the benchmark.
        results: one mapping a number: metric, value, bare or baseline, ratio, interval.
        seed: of whatever is random.
        settings: everything that was chosen.
        data: path, sha256 and split of every file read.
    """
    content = {
        "name": name,
        **provenance(),
        "seed": seed,
        "data": data or [],
        "settings": settings,
        "results": results,
    }
    return write_content(content)


def check_locked() -> None:
    """Returns if a locked run may begin: what it measures is a commit.

    Raises:
        ConfigError: the checkout is none, or has changes.
    """
    if (commit() or "+").endswith("+"):
        raise ConfigError(
            "A locked run measures a commit, and the checkout is none or has changes; commit first."
        )


def kind_of(backend: Backend) -> str:
    """The kind of processor: where bf16 is fast the model is in it, and probes weigh more."""
    if backend.device.type == "cuda":
        return torch.cuda.get_device_name().lower().replace(" ", "-")
    return "cpu-bf16" if backend.dtype == torch.bfloat16 else "cpu"


def as_results(values: Mapping[str, tuple[float, float | None]]) -> list[dict[str, Any]]:
    """Metric -> a value and what it is held against, if anything, as a file's `results`."""
    return [
        {
            "metric": metric,
            "value": value,
            "baseline": line,
            "ratio": value / line if line else None,
            "interval": None,
        }
        for metric, (value, line) in values.items()
    ]


def write_content(content: dict[str, Any]) -> Path:
    """Writes the whole of a result file, named by what it holds."""
    path = RESULTS / f"{content['name']}.json"
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())
    print(f"wrote {path.name}")
    return path


def data_entry(path: Path, split: str) -> dict[str, str]:
    """A data file: its path below the data folder, its hash, and how it is used."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"path": f"{path.parent.name}/{path.name}", "sha256": digest, "split": split}
