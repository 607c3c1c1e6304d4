"""Where a number comes from: the commit, the machine, the versions, the day."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("pillion", "torch", "transformers", "numpy", "scikit-learn")


def provenance() -> dict[str, Any]:
    """Date, commit, machine and versions, as every result file holds them."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
    }


@cache
def commit() -> str | None:
    """The commit of the checkout that this code runs from, as it was when first asked.

    `+` stands behind it where tracked files differ; None outside a checkout, or without git.
    """
    # A file that is merely inside another repository, such as an environment, is no checkout.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    found = _git("rev-parse", "HEAD")
    return found and found + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*words: str) -> str | None:
    """What git says, without its last newline; None where it fails."""
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()


def machine() -> dict[str, Any]:
    """What numbers are measured on."""
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
    }
