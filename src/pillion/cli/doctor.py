"""`pillion doctor`: is this machine ready."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

from pillion.cli.app import Json, app, out, print_json

PACKAGES = ("pillion", "torch", "transformers", "tokenizers", "safetensors", "scikit-learn")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check that this machine is ready.

    Python, packages, memory, disk, accelerator, embedded model; exit code 1 if it is not ready.
    """
    facts = _facts()
    ready = bool(facts["embedded_model"])
    if as_json:
        print_json({**facts, "ready": ready})
    else:
        for name, value in facts.items():
            out.print(f"{name:<16} {value}")
        out.print("Ready." if ready else "Not ready: run `pillion setup`.")
    if not ready:
        sys.exit(1)


def _facts() -> dict[str, Any]:
    import psutil
    import torch

    from pillion.backends.embedded import is_embedded_model_ready

    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "embedded_model": is_embedded_model_ready(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
