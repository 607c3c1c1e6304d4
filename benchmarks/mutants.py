"""Which small faults of the code no test would notice: a mutation run, by cosmic-ray, on a copy.

Each mutant is one operator, number, comparison or statement changed in one place. The tests of its
part run on it; one that fails kills it. What survives is a test to be written, or a change without
effect. All mutants of all parts take many hours: `--sample` draws some of each part.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.result_file import write_result

ROOT = Path(__file__).parents[1]
SECONDS = 600.0
"""After which the tests of a mutant are taken to hang, which kills it."""
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "probe": (("probe",), ("tests/probe", "tests/laws/test_aggregators.py")),
    "sidecache": (("sidecache",), ("tests/sidecache", "tests/laws/test_scoped_serving.py")),
    "decide": (("serve/decide.py",), ("tests/serve/test_decide.py",)),
    "policy": (("serve/policy.py",), ("tests/serve/test_policy_file.py",)),
    "answering": (
        ("serve/answering.py",),
        ("tests/serve/test_policies.py", "tests/serve/test_chat.py"),
    ),
    "metrics": (("metrics",), ("tests/metrics",)),
    "calibrate": (
        ("evals/calibrate.py", "evals/comparison.py", "evals/wishes.py"),
        ("tests/evals/test_calibrate.py",),
    ),
}
"""Sources below `src/pillion`, and the tests that hold them."""


def main() -> None:
    """Runs the parts that are asked for and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="repeat it; default: all")
    parser.add_argument("--sample", type=int, default=20, help="mutants of a part; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    given = parser.parse_args()
    parts = given.part or list(PARTS)
    results = [found for part in parts for found in run_part(part, given.sample, given.seed)]
    settings = {"sample": given.sample, "tool": "cosmic-ray", "seconds_a_mutant": SECONDS}
    write_result("mutants", results, seed=given.seed, settings=settings)


def run_part(part: str, sample: int, seed: int) -> list[dict[str, Any]]:
    """The score of a part, and what survived."""
    with tempfile.TemporaryDirectory(prefix="pillion-mutants-") as folder:
        place = Path(folder)
        for name in ("src", "tests", "benchmarks", "docs", "pyproject.toml", "README.md"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, place / name)
        write_config(place, *PARTS[part])
        call(place, "baseline", "mutants.toml")  # tests that fail without a fault would kill all
        call(place, "init", "mutants.toml", "session.sqlite")
        num_all = draw(place / "session.sqlite", sample, seed)
        call(place, "exec", "mutants.toml", "session.sqlite")
        return scores(part, place / "session.sqlite", num_all)


def write_config(place: Path, sources: tuple[str, ...], tests: tuple[str, ...]) -> None:
    """What cosmic-ray is to change and how it is to test."""
    paths = ", ".join(f'"src/pillion/{source}"' for source in sources)
    # The copy's own sources come first, whatever is installed.
    known = os.pathsep.join(["src", ".", *filter(None, [os.environ.get("PYTHONPATH")])])
    command = f"env PYTHONPATH={known} {sys.executable} -m pytest -x -q {' '.join(tests)}"
    lines = [
        "[cosmic-ray]",
        f"module-path = [{paths}]",
        f"timeout = {SECONDS}",
        "excluded-modules = []",
        f'test-command = "{command}"',
        "[cosmic-ray.distributor]",
        'name = "local"',
    ]
    (place / "mutants.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def call(place: Path, *words: str) -> None:
    """Runs a command of cosmic-ray in the copy."""
    subprocess.run([sys.executable, "-m", "cosmic_ray.cli", *words], cwd=place, check=True)


def draw(session: Path, sample: int, seed: int) -> int:
    """Leaves a sample of the mutants to be run; returns how many there are in all."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    with use_db(session, WorkDB.Mode.open) as database:
        # Ids are another every time; where a mutant is stays.
        items = sorted(database.work_items, key=lambda item: str(item.mutations))
        jobs = [item.job_id for item in items]
        random.Random(seed).shuffle(jobs)
        for job in jobs[sample:] if sample else []:
            database.set_result(job, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
    return len(jobs)


def scores(part: str, session: Path, num_all: int) -> list[dict[str, Any]]:
    """The share that was killed, and a line for each mutant that was not."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import WorkerOutcome

    counts: Counter[str] = Counter()
    alive: list[dict[str, Any]] = []
    with use_db(session, WorkDB.Mode.open) as database:
        items = {item.job_id: item for item in database.work_items}
        for job, result in database.results:
            if result.worker_outcome == WorkerOutcome.SKIPPED:
                continue
            outcome = "incompetent" if result.test_outcome is None else result.test_outcome.value
            counts[outcome] += 1
            if outcome == "survived":
                (mutation,) = items[job].mutations
                where = f"{mutation.module_path}:{mutation.start_pos[0]}"
                alive.append(
                    {"metric": "survived", "part": part, "operator": mutation.operator_name}
                    | {"where": where.removeprefix("src/pillion/")}
                )
    run = counts.total()
    score = {"metric": "killed", "part": part, "value": 1 - counts["survived"] / max(run, 1)}
    return [score | {"run": run, "mutants": num_all} | dict(counts), *alive]


if __name__ == "__main__":
    main()
