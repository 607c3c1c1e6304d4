"""Result files: one JSON object a benchmark, with everything needed to doubt or repeat it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("PILLION_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
PACKAGES = ("pillion", "torch", "transformers", "numpy", "scikit-learn")


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
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "seed": seed,
        "data": data or [],
        "settings": settings,
        "results": results,
    }
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    print(f"wrote {path.name}")
    return path


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
    }


def data_entry(path: Path, split: str) -> dict[str, str]:
    """A data file: its path below the data folder, its hash, and how it is used."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"path": f"{path.parent.name}/{path.name}", "sha256": digest, "split": split}
