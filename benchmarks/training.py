"""How long `pillion train` takes on all of Emotion, extraction included, and how much memory.

    python -m benchmarks.training

Runs the command as a user would, in a process of its own. The accuracy is that of validation
rows. Result files are named by kind of processor.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result_file import DATA, data_entry, kind_of, write_result
from pillion.backends import load_backend

LIMIT_SECONDS, LIMIT_BYTES = 400, 4e9


def pillion(*words: str) -> dict[str, Any]:
    """Runs a verb and returns its JSON."""
    command = [sys.executable, "-m", "pillion", *words, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def main() -> None:
    train, validation = (DATA / "emotion" / f"{split}.parquet" for split in ("train", "validation"))
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "emotion")
        begin = time.perf_counter()
        files = ("--data", str(train), "--validation", str(validation))
        trained = pillion("train", *files, "--template", "raw", "--out", out)
        seconds = time.perf_counter() - begin
        accuracy = trained["validation"]["accuracy"]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = [
        {"metric": "train_seconds", "value": seconds, "baseline": LIMIT_SECONDS},
        {"metric": "train_cpu_seconds", "value": used.ru_utime + used.ru_stime, "baseline": None},
        {"metric": "train_peak_bytes", "value": used.ru_maxrss * 1024, "baseline": LIMIT_BYTES},
        {"metric": "validation_accuracy", "value": accuracy, "baseline": None},
    ]
    for row in results:
        limit = row["baseline"]
        row |= {"ratio": row["value"] / limit if limit else None, "interval": None}
        print(row)
    data = [data_entry(train, "train"), data_entry(validation, "validation")]
    settings = {"probe": trained["probe"], "learning_rate": trained["learning_rate"]}
    name = f"training-embedded-{kind_of(load_backend())}"
    write_result(name, results, seed=0, settings=settings, data=data)


if __name__ == "__main__":
    main()
