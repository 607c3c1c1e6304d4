"""Many short rows through `pillion predict --ray` and `extract --ray`: what the driver holds.

    python -m benchmarks.ray_stream [--rows 10000000] [--files 100]

Parquet files of made-up words on a cluster of this machine, the `fake` model. The driver is a
process of its own whose memory is read twice a second, to the end of the run. On a tenth of the
rows: one worker against two, in turns, by the rows that are done between the first slice and the
last; a driver that is killed half way, and what its successor does again; the lines of a run
without Ray; and the states of `extract`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ray_scaling import start_cluster
from benchmarks.result_file import write_result
from pillion.data import plan_slices
from pillion.metrics import interval

WORDS = np.array(["good", "bad", "calm", "loud", "red", "sea", "hill", "day", "night", "now"])
MOST_WORDS = 7
EVERY_SECONDS = 0.5


def write_files(folder: Path, rows: int, files: int, seed: int) -> int:
    """Rows of one to seven words; how many bytes their texts have."""
    folder.mkdir(parents=True)
    random, num_bytes = np.random.default_rng(seed), 0
    for place in range(files):
        count = rows * (place + 1) // files - rows * place // files
        lengths = random.integers(1, MOST_WORDS + 1, count)
        words = WORDS[random.integers(0, len(WORDS), int(lengths.sum()))]
        texts = [" ".join(some) for some in np.split(words, np.cumsum(lengths)[:-1])]
        pq.write_table(pa.table({"text": texts}), folder / f"{place:04d}.parquet")
        num_bytes += sum(map(len, texts))
    return num_bytes


@dataclass
class Ran:
    """What was seen of a driver.

    Attributes:
        memory: resident bytes, twice a second.
        done: seconds since the start and finished slices, likewise.
        cpu_seconds: of the driver alone.
        seconds: in all.
        told: what it wrote on standard error.
    """

    memory: list[int] = field(default_factory=list[int])
    done: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    told: str = ""

    @property
    def tokens(self) -> int:
        """That its workers did."""
        told = re.findall(r"Worker \S+: ([\d,]+) tokens,", self.told)
        return sum(int(number.replace(",", "")) for number in told)

    def rows_per_second(self, rows: int, slices: int) -> float:
        """Between the first slices and the last that were seen, if there were enough."""
        end, last = next(one for one in self.done if one[1] == self.done[-1][1])
        begin, first = next((one for one in self.done if one[1] >= 2), (0.0, 0))
        if last - first < 8:
            return rows / self.seconds
        return (last - first) / (end - begin) * rows / slices


def run(words: list[str], slices: Callable[[], int], kill_at: int | None = None) -> Ran:
    """Runs the program and watches it.

    Args:
        words: of the command line.
        slices: how many are finished.
        kill_at: so many, after which the driver is killed.
    """
    ran, begin = Ran(), time.monotonic()
    with tempfile.TemporaryFile("w+") as told:
        program = [sys.executable, "-m", "pillion", *words]
        driver = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=told)
        watched = psutil.Process(driver.pid)
        while driver.poll() is None:
            try:
                ran.memory.append(watched.memory_info().rss)
                ran.cpu_seconds = sum(watched.cpu_times()[:2])
            except psutil.Error:
                break
            before = ran.done[-1][1] if ran.done else 0  # the folder goes when all is done
            ran.done.append((time.monotonic() - begin, max(before, slices())))
            if kill_at is not None and ran.done[-1][1] >= kill_at:
                os.kill(driver.pid, signal.SIGKILL)
            time.sleep(EVERY_SECONDS)
        code = driver.wait()
        told.seek(0)
        ran.told = told.read()
    ran.seconds = time.monotonic() - begin
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"pillion {' '.join(words)} ended with {code}: {ran.told[-2000:]}")
    return ran


def third(numbers: list[int], which: int) -> float:
    """The mean of a third of them."""
    size = max(1, len(numbers) // 3)
    return float(np.mean(numbers[which * size :][:size]))


def predict_words(place: Place, data: Path, out: Path, workers: int = 2) -> list[str]:
    words = ["predict", "--probe", str(place.probe), "--model", "fake", "--input", str(data)]
    words += ["--out", str(out)]
    return [*words, "--ray", place.address, "--ray-workers", str(workers)] if workers else words


@dataclass(frozen=True)
class Place:
    """Where all of it lies."""

    folder: Path
    probe: Path
    address: str

    def predict(self, data: Path, workers: int = 2, kill_at: int | None = None) -> Ran:
        """Lines of a folder's rows, in NAME-WORKERS.jsonl."""
        out = self.folder / f"{data.name}-{workers}.jsonl"
        work = out.with_name(f".{out.name}.work")
        if kill_at is None and not work.exists():
            out.unlink(missing_ok=True)
        words = predict_words(self, data, out, workers)
        return run(words, lambda: len(list(work.glob("slice-*.jsonl"))), kill_at)


def trained(folder: Path) -> Path:
    """A probe of the fake model."""
    rows = [{"text": f"{w} day", "label": "good" if n % 2 else "bad"} for n, w in enumerate(WORDS)]
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    words = ["train", "--data", str(data), "--model", "fake", "--out", str(folder / "probe")]
    run([*words, "--lr", "0.03", "--template", "raw"], lambda: 0)
    return folder / "probe"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where files are written; default: temporary")
    options = parser.parse_args()
    cluster = start_cluster()
    try:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            place = Place(Path(folder), trained(Path(folder)), cluster.address)
            results, settings = measure(place, options)
    finally:
        cluster.shutdown()
    settings |= {"rows": options.rows, "files": options.files, "rounds": options.rounds}
    settings |= {"model": "fake", "template": "raw"}
    write_result("ray-stream", results, seed=options.seed, settings=settings)


def measure(
    place: Place, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All entries of the result file, and what the rows were."""
    few, many = place.folder / "few", place.folder / "many"
    some = options.rows // 10
    write_files(few, some, max(1, options.files // 10), options.seed + 1)
    num_bytes = write_files(many, options.rows, options.files, options.seed)
    results = [*in_turns(place, few, some, options.rounds), *killed(place, few), *equal(place, few)]
    results += extracted(place, few, some)
    print("now all rows", file=sys.stderr)
    whole = place.predict(many)
    results += memory("predict", options.rows, whole)
    results.append(
        {
            "metric": "rows_per_second",
            "rows": options.rows,
            "workers": 2,
            "value": options.rows / whole.seconds,
        }
    )
    return results, {"text_bytes": num_bytes, "rows_of_the_short_runs": some}


def memory(verb: str, rows: int, ran: Ran) -> list[dict[str, Any]]:
    """What the driver held, and whether it rose."""
    middle, last = third(ran.memory, 1), third(ran.memory, 2)
    return [
        {"metric": "driver_peak_bytes", "verb": verb, "rows": rows, "value": max(ran.memory)},
        {
            "metric": "driver_last_third_bytes",
            "verb": verb,
            "rows": rows,
            "value": last,
            "baseline": middle,
            "ratio": last / middle,
        },
        {"metric": "driver_cpu_seconds", "verb": verb, "rows": rows, "value": ran.cpu_seconds},
        {"metric": "seconds", "verb": verb, "rows": rows, "value": ran.seconds},
    ]


def in_turns(place: Place, data: Path, rows: int, rounds: int) -> list[dict[str, Any]]:
    """Rows a second of one worker and of two."""
    slices = len(plan_slices(str(data)).slices)
    found: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers in (1, 2) if number % 2 else (2, 1):
            ran = place.predict(data, workers)
            found[workers].append(ran.rows_per_second(rows, slices))
            print(f"{workers}: {found[workers][-1]:.0f} rows/s", file=sys.stderr)
    ratios = np.array(found[2]) / np.array(found[1])
    spread = interval(lambda some: float(np.median(some)), ratios)
    return [
        *(
            {
                "metric": "rows_per_second",
                "rows": rows,
                "workers": workers,
                "value": float(np.median(rates)),
            }
            for workers, rates in found.items()
        ),
        {
            "metric": "two_workers_against_one",
            "rows": rows,
            "value": float(np.median(ratios)),
            "interval": spread and [spread.low, spread.high],
        },
    ]


def killed(place: Place, data: Path) -> list[dict[str, Any]]:
    """Tokens that the second driver had done, of those that the first one had not kept."""
    whole = place.predict(data)
    slices = len(plan_slices(str(data)).slices)
    (place.folder / "few-2.jsonl").unlink()
    first = place.predict(data, kill_at=max(1, slices // 2))
    kept = first.done[-1][1]
    again = place.predict(data)
    return [
        {"metric": "slices_kept_by_a_killed_driver", "value": kept, "baseline": slices},
        {
            "metric": "tokens_of_the_second_driver",
            "value": again.tokens,
            "baseline": whole.tokens,
            "ratio": again.tokens / whole.tokens,
        },
    ]


def equal(place: Place, data: Path) -> list[dict[str, Any]]:
    """Lines that a run without Ray gives otherwise."""
    place.predict(data, workers=0)
    with open(place.folder / "few-0.jsonl") as here, open(place.folder / "few-2.jsonl") as there:
        others = sum(one != two for one, two in zip(here, there, strict=True))
    return [{"metric": "lines_that_differ_from_one_machine", "value": others}]


def extracted(place: Place, data: Path, rows: int) -> list[dict[str, Any]]:
    """The driver of `extract`, which keeps numbers of every row."""
    out = place.folder / "states"
    words = ["extract", "--data", str(data), "--model", "fake", "--layers", "2", "--out", str(out)]
    ran = run([*words, "--ray", place.address, "--ray-workers", "2"], lambda: 0)
    return memory("extract", rows, ran)


if __name__ == "__main__":
    main()
