"""A small data set and a place to work on it, for the tests of methods."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pillion.backends import Backend
from pillion.backends.fake import FakeBackend
from pillion.metrics import evaluate
from pillion_bench.baselines import Outcome, Workplace
from pillion_bench.problem import Problem, open_problem
from pillion_bench.states import States
from pillion_bench.suite import DataSpec

TEXTS = {"fine": "good work {}", "poor": "it broke {}", "so": "neither nor {}"}


def problem_of(
    folder: Path,
    labels: tuple[str, ...] = ("fine", "poor"),
    rows: int = 90,
    *,
    locked: bool = True,
) -> Problem:
    draw = np.random.default_rng(0)
    names = [labels[int(draw.integers(len(labels)))] for _ in range(rows)]
    lines = [
        json.dumps({"text": TEXTS[name].format(draw.integers(10)), "label": name}) for name in names
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return open_problem(
        "mood", DataSpec(train="rows.jsonl", test=0.3, template="raw"), folder, locked=locked
    )


def place_of(
    folder: Path, opened: ExitStack, problem: Problem, backend: Backend | None = None
) -> Workplace:
    states = States(backend or FakeBackend(), problem, folder / "states", say=lambda _: None)
    return Workplace(problem, opened.enter_context(states), folder / "work")


def accuracy(outcome: Outcome, problem: Problem) -> float:
    assert problem.test is not None
    found = evaluate(outcome.ask(problem.test), problem.test.targets, problem.task)["accuracy"]
    assert found is not None
    return found
