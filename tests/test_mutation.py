"""Which mutants are drawn in a mutation run, and which tests they have to face."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SOURCE = '''"""A module."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """A value."""

    place: dict[str, int | None]


class Read(Base):
    field: dict[str, int | None]

    @abstractmethod
    def of(self, one: int | None, *, two: str = "x") -> list[int | None]:
        """A promise."""
        known: list[int | None] = [1]

        def inner(place: int) -> bool:
            return two == "x"

        return known
'''


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    return importlib.import_module("benchmarks.mutation.changes")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    return importlib.import_module("benchmarks.mutation.runs")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("one: int | None", "one: int & None"),
        ("-> list[int | None]", "-> list[int - None]"),
        ("known: list[int | None]", "known: list[int * None]"),
        ("place: dict[str, int | None]", "place: dict[str, int ^ None]"),
        ("    @abstractmethod\n", ""),
        ('two == "x"', 'two is "x"'),
        ("*, two", "+, two"),
    ],
)
def test_what_no_run_or_every_run_would_feel_is_not_drawn(changes: Any, old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert not changes.has_effect(SOURCE, SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("frozen=True", "frozen=False"),
        ("@dataclass(frozen=True)\n", ""),
        ("field: dict[str, int | None]", "field: dict[str, int ^ None]"),  # its base may read it
        ('two: str = "x"', 'two: str = "y"'),
        ("*, two", "/, two"),
        ("= [1]", "= [2]"),
        ('two == "x"', 'two != "x"'),
    ],
)
def test_what_a_run_can_feel_is_drawn(changes: Any, old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert changes.has_effect(SOURCE, SOURCE.replace(old, new))


def test_a_change_is_made_where_it_was_found_and_told_by_its_lines(
    changes: Any, tmp_path: Path
) -> None:
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "found.py").write_text("def f(x):\n    return x + 1\n", encoding="utf-8")
    found = changes.changes_of(tmp_path, "probe")
    assert found and {(one.path, one.line) for one in found} == {("probe/found.py", 2)}
    assert found == changes.changes_of(tmp_path, "probe/found.py")
    text = (tmp_path / "probe" / "found.py").read_text(encoding="utf-8")
    made = {changes.told(text, changes.mutated(text, one)).splitlines()[1] for one in found}
    assert {"+    return x - 1", "+    return x + 2", "+    return x + 0"} < made
    assert len(made) == len(found) == 13  # eleven other operators, two other numbers


def test_a_line_belongs_to_the_innermost_function_whose_body_holds_it(changes: Any) -> None:
    lines = SOURCE.splitlines()

    def of(part: str) -> str | None:
        (place,) = (i for i, line in enumerate(lines, start=1) if part in line)
        return changes.function_at(SOURCE, place)

    assert of("place: dict") is of("@abstractmethod") is of("def of") is None
    assert of("known: list") == of("def inner") == of("return known") == "Read.of"
    assert of("return two") == "Read.of.<locals>.inner"


def test_a_change_faces_the_tests_that_come_by_its_function_the_quick_ones_first(
    runs: Any,
) -> None:
    seconds = {"tests/a/x.py::one": 3.0, "tests/a/x.py::two": 1.0, "tests/b.py::three": 0.1}
    entered = {
        "tests/a/x.py::one": {("probe/p.py", "f")},
        "tests/a/x.py": {("probe/p.py", "set_up")},
        "tests/b.py::three": {("probe/p.py", "f")},
    }
    notes = runs.Notes(seconds, entered)
    assert notes.tests_of("probe/p.py", "f", ["tests/a"], 9) == ["tests/a/x.py::one"]
    assert notes.tests_of("probe/p.py", "g", ["tests"], 9) == []
    both = ["tests/a/x.py::two", "tests/a/x.py::one"]
    assert notes.tests_of("probe/p.py", "set_up", ["tests"], 9) == both
    assert notes.tests_of("probe/p.py", None, ["tests"], 9) == ["tests/b.py::three", *both]
    assert notes.tests_of("probe/p.py", None, ["tests"], 1.5) == ["tests/b.py::three", both[0]]
    assert notes.tests_of("probe/p.py", "f", ["tests/a"], 0.5) == ["tests/a/x.py::one"]


def test_what_is_the_same_program_is_counted_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    mutants = importlib.import_module("benchmarks.mutants")
    same = [{"where": "a.py", "change": "-x\n+y", "reason": "why"}]
    (tmp_path / "same.json").write_text(json.dumps(same))
    monkeypatch.setattr(mutants, "SAME", tmp_path / "same.json")
    line = {"metric": "survived", "part": "probe", "where": "a.py:3", "change": "-x\n+y"}
    alive = [mutants.judged(one) for one in (line, line | {"where": "b.py:3"})]
    assert [one["metric"] for one in alive] == ["same", "survived"]
    assert alive[0]["reason"] == "why"
    score = mutants.Score("probe", 100, Counter(killed=3, same=1, survived=1), alive)
    whole, part, *rest = mutants.rows_of([score])
    assert whole["value"] == part["value"] == 0.75 and part["run"] == 4
    assert rest == alive


def test_what_is_said_to_be_the_same_program_stands_in_the_code() -> None:
    """A line that has changed since must be judged anew."""
    root = Path(__file__).parents[1]
    for one in json.loads((root / "benchmarks" / "mutation" / "same.json").read_text()):
        before = one["change"].partition("\n")[0].removeprefix("-")
        assert before in (root / "src" / "pillion" / one["where"]).read_text().splitlines(), before
        assert one["reason"].endswith(".")
