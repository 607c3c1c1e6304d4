"""All benchmarks, one after the other: `python -m benchmarks`; PILLION_DATA holds the data."""

from __future__ import annotations

import subprocess
import sys

ALL = (
    "ride",
    "memory",
    "sidecache",
    "extraction",
    "training",
    "accuracy",
    "silhouette",
    "layers",
    "needle",
    "answers",
    "real",
    "conversations",
    "exits",
    "widths",
    "serving",
    "guard",
    "canaries",
    "soak",
    "ray_scaling",
    "scale_plan",
)

for name in ALL:
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
