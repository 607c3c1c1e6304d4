"""Which small faults of the code no test would notice: a mutation run, by cosmic-ray, on a copy.

Each mutant is one operator, number, comparison or statement changed in one place. The tests of its
part that come by the changed function run on it; one that fails kills it. What survives is a test
to be written, or a change without effect. Changes that no run can feel are not drawn, nor those
that every run would (`benchmarks/mutation/changes.py`). A survivor that was found to be the same
program in other words is listed with the reason in `benchmarks/mutation/same.json`, and is counted
apart; `--judged` counts a result file again after that list has grown. All mutants of all parts
take days: `--sample` draws some of each part, in turns, and the result file is written after each
turn. A sample whose survivors have led to tests says nothing of the rest any more: draw with
another seed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from math import sqrt
from pathlib import Path
from typing import Any

from benchmarks.mutation.changes import Change, changes_of, function_at, has_effect, mutated, told
from benchmarks.mutation.runs import Notes, baseline, outcome

ROOT = Path(__file__).parents[1]
TEST_SECONDS = 60.0
"""Of the tests that come by a change, the quick ones run that take so long together without it."""
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "probe": (
        ("probe",),
        (
            "tests/probe",
            "tests/laws/test_aggregators.py",
            "tests/laws/test_artefacts.py",
            "tests/laws/test_scoped_serving.py",
            "tests/runtime/test_canaries.py",
        ),
    ),
    "sidecache": (
        ("sidecache",),
        ("tests/sidecache", "tests/laws/test_scoped_serving.py"),
    ),
    "decide": (("policies/decide.py", "policies/actions.py"), ("tests/policies/test_decide.py",)),
    "policy": (("policies/policy.py",), ("tests/policies/test_policy_file.py",)),
    "answering": (
        ("serve/answering.py",),
        (
            "tests/serve/test_answering.py",
            "tests/serve/test_policies.py",
            "tests/serve/test_chat.py",
            "tests/serve/test_callers.py",
        ),
    ),
    "metrics": (("metrics",), ("tests/metrics", "tests/evals/test_calibrate.py")),
    "calibrate": (
        ("evals/calibrate.py", "evals/comparison.py", "evals/wishes.py"),
        ("tests/evals/test_calibrate.py", "tests/evals/test_calibration_numbers.py"),
    ),
}
"""Sources below `src/pillion`, and the tests that hold them."""
SAME = Path(__file__).parent / "mutation" / "same.json"
"""Changes after which the program is the same: where, the change, and why."""
BESIDE = ("tests/test_frozen.py",)
"""Tests that hold all parts."""


@dataclass
class Score:
    """What is known of a part.

    Attributes:
        part: its name.
        mutants: how many could be made, about: the share of changes with effect is that of those
            that were looked at for the sample.
        counts: of mutants that were run, by outcome.
        alive: a line of the result file for each that survived.
    """

    part: str
    mutants: int = 0
    counts: Counter[str] = field(default_factory=Counter[str])
    alive: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def run(self) -> int:
        """How many were run, but for those that are the same program."""
        return self.counts.total() - self.counts["same"]

    @property
    def killed(self) -> int:
        """How many a test has noticed."""
        return self.run - self.counts["survived"]


def main() -> None:
    """Runs the parts that are asked for and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="repeat it; default: all")
    parser.add_argument("--sample", type=int, default=20, help="mutants of a part; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--again", type=Path, help="a result file: only what survived, told only")
    parser.add_argument("--judged", type=Path, help="a result file: counted again by same.json")
    given = parser.parse_args()
    if given.judged:
        judge(given.judged)
        return
    with tempfile.TemporaryDirectory(prefix="pillion-mutants-") as folder:
        place = copied(Path(folder))
        parts = list(given.part or PARTS)
        notes = baseline(place, sorted({test for part in parts for test in tests_of(part)}))
        if given.again:
            for part, change in survivors(given.again, parts):
                print(part, change, run(place, notes, part, change), flush=True)
            return
        settings = {"sample": given.sample, "tool": "cosmic-ray", "test_seconds": TEST_SECONDS}
        for scores in turns(place, notes, parts, given.sample, given.seed):
            write(scores, given.seed, settings)


def tests_of(part: str) -> tuple[str, ...]:
    """Files and folders of the tests that hold a part."""
    return (*PARTS[part][1], *BESIDE)


def copied(place: Path) -> Path:
    """A copy of what the tests need, in a folder."""
    for name in ("src", "tests", "benchmarks", "docs", "pyproject.toml", "README.md"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, place / name)
    return place


def turns(
    place: Path, notes: Notes, parts: list[str], sample: int, seed: int
) -> Iterator[list[Score]]:
    """The scores after each turn, in which one mutant of each part is run."""
    scores = [Score(part) for part in parts]
    drawn = [draw(place, score, sample, seed) for score in scores]
    for turn in zip_longest(*drawn):
        for score, change in zip(scores, turn, strict=True):
            if change is None:
                continue
            found = run(place, notes, score.part, change)
            if found == "survived":
                line = judged(line_of(place, score.part, change))
                found = line["metric"]
                score.alive.append(line)
            score.counts[found] += 1
            print(score.part, change, found, flush=True)
        yield scores


def draw(place: Path, score: Score, sample: int, seed: int) -> list[Change]:
    """A sample of the part's changes that have an effect; 0 for all of them."""
    package = place / "src" / "pillion"
    every = [one for source in PARTS[score.part][0] for one in changes_of(package, source)]
    random.Random(seed).shuffle(every)
    drawn: list[Change] = []
    looked = 0
    for change in every:
        looked += 1
        text = (package / change.path).read_text(encoding="utf-8")
        if has_effect(text, mutated(text, change)):
            drawn.append(change)
        if sample and len(drawn) == sample:
            break
    score.mutants = round(len(every) * len(drawn) / max(looked, 1))
    return drawn


def run(place: Path, notes: Notes, part: str, change: Change) -> str:
    """What becomes of a mutant."""
    file = place / "src" / "pillion" / change.path
    text = file.read_text(encoding="utf-8")
    function = function_at(text, change.line)
    tests = notes.tests_of(change.path, function, tests_of(part), TEST_SECONDS)
    limit = 60 + 5 * sum(notes.seconds[test] for test in tests)  # then they hang, which kills it
    file.write_text(mutated(text, change), encoding="utf-8")
    try:
        return outcome(place, tests, limit)
    finally:
        file.write_text(text, encoding="utf-8")


def line_of(place: Path, part: str, change: Change) -> dict[str, Any]:
    """A mutant that survived, as the result file tells it."""
    text = (place / "src" / "pillion" / change.path).read_text(encoding="utf-8")
    return {
        "metric": "survived",
        "part": part,
        "where": f"{change.path}:{change.line}",
        "operator": change.operator,
        "occurrence": change.occurrence,
        "change": told(text, mutated(text, change)),
    }


def judged(line: dict[str, Any]) -> dict[str, Any]:
    """A survivor's line; its metric is `same` where the list says so, with the list's reason."""
    reasons = {(one["where"], one["change"]): one["reason"] for one in json.loads(SAME.read_text())}
    reason = reasons.get((line["where"].partition(":")[0], line["change"]))
    return line if reason is None else line | {"metric": "same", "reason": reason}


def judge(path: Path) -> None:
    """Counts a result file again, by what is known by now to be the same program."""
    content = json.loads(path.read_text(encoding="utf-8"))
    lines = [judged(one) for one in content["results"] if one["metric"] != "killed"]
    scores: list[Score] = []
    for one in content["results"]:
        if one["metric"] == "killed" and one["part"] != "all":
            score = Score(one["part"], one["mutants"])
            score.alive = [line for line in lines if line["part"] == score.part]
            score.counts = Counter(line["metric"] for line in score.alive)
            score.counts.update({kind: one.get(kind, 0) for kind in ("killed", "timeout")})
            scores.append(score)
    from benchmarks.result_file import write_content

    write_content(content | {"results": rows_of(scores)})


def survivors(path: Path, parts: list[str]) -> list[tuple[str, Change]]:
    """The mutants that survived by a result file."""
    found: list[tuple[str, Change]] = []
    for line in json.loads(path.read_text(encoding="utf-8"))["results"]:
        if line["metric"] == "survived" and line["part"] in parts:
            file, number = line["where"].split(":")
            change = Change(file, line["operator"], line["occurrence"], int(number))
            found.append((line["part"], change))
    return found


def write(scores: list[Score], seed: int, settings: dict[str, Any]) -> None:
    """Writes the result file: shares that were killed, with 95 % intervals, and what was not."""
    # Not before: the processes of the tests must not find pillion loaded.
    from benchmarks.result_file import write_result

    write_result("mutants", rows_of(scores), seed=seed, settings=settings)


def rows_of(scores: list[Score]) -> list[dict[str, Any]]:
    """The numbers of a result file: shares of all and of each part, then the survivors."""
    from pillion.metrics.curves import wilson

    known = [score for score in scores if score.run]
    parts = [
        {"metric": "killed", "part": score.part, "value": score.killed / score.run}
        | {"interval": list(wilson(score.killed / score.run, score.run))}
        | {"run": score.run, "mutants": score.mutants, **score.counts}
        for score in known
    ]
    alive = [line for score in known for line in score.alive]
    return [overall(known), *parts, *alive]


def overall(scores: list[Score]) -> dict[str, Any]:
    """The share of all mutants that would be killed: parts count by how many mutants they have."""
    total = sum(score.mutants for score in scores)
    value = variance = 0.0
    for score in scores:
        weight = score.mutants / total
        value += weight * score.killed / score.run
        near = (score.killed + 1) / (score.run + 2)  # a share of all or none has a spread too
        variance += weight**2 * near * (1 - near) / score.run
    half = 1.96 * sqrt(variance)
    return {
        "metric": "killed",
        "part": "all",
        "value": value,
        "interval": [max(0.0, value - half), min(1.0, value + half)],
        "run": sum(score.run for score in scores),
        "mutants": total,
    }


if __name__ == "__main__":
    main()
