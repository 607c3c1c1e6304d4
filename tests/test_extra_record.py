"""Tests of a browser, Ray and clients do not run in CI; their record does, and must be true."""

from __future__ import annotations

import importlib
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MARK = "pytestmark = pytest.mark" + ".ray"  # not spelled out: this file has no such test
RUN = "run `make test-extra`, and commit benchmarks/results/test-extra.json"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks/results/test-extra.json").read_text())


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.extra")


def test_every_test_of_the_tier_passed_and_none_was_skipped(record: dict[str, Any]) -> None:
    ran = {one["file"]: (one["value"], one["baseline"]) for one in record["results"]}
    assert set(ran) == set(record["settings"]["files"]), RUN
    assert {name: counts for name, counts in ran.items() if counts[0] != counts[1]} == {}, RUN


def test_the_record_is_of_the_tests_and_parts_that_are_here(
    extra: Any, record: dict[str, Any]
) -> None:
    assert record["settings"]["files"] == extra.files_of_the_tier(), RUN
    assert record["settings"]["parts"] == extra.parts(), RUN


def test_the_record_is_not_old(extra: Any, record: dict[str, Any]) -> None:
    made = date.fromisoformat(record["date"][:10])
    assert (datetime.now(UTC).date() - made).days <= extra.MOST_DAYS, RUN


def test_what_failed_or_was_skipped_did_not_pass(extra: Any, tmp_path: Path) -> None:
    cases = [
        ("a.py", ""),
        ("a.py", "<skipped/>"),
        ("a.py", "<failure/>"),
        ("b.py", ""),
        ("c.py", "<error/>"),
    ]
    lines = [f'<testcase file="tests/{name}" name="t">{what}</testcase>' for name, what in cases]
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{''.join(lines)}</testsuite></testsuites>")
    found = {one["file"]: (one["value"], one["baseline"]) for one in extra.counted(report)}
    assert found == {"tests/a.py": (1, 3), "tests/b.py": (1, 1), "tests/c.py": (0, 1)}


def test_a_change_of_a_test_or_a_part_is_seen(
    extra: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for part in extra.PARTS:
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "tests").mkdir(exist_ok=True)
    marked = tmp_path / "tests" / "test_one.py"
    marked.write_text(MARK + "\n")
    (tmp_path / "tests" / "test_two.py").write_text("# no mark\n")
    monkeypatch.setattr(extra, "ROOT", tmp_path)
    files, parts = extra.files_of_the_tier(), extra.parts()
    assert list(files) == ["tests/test_one.py"]
    marked.write_text(MARK + "  # and more\n")
    (tmp_path / extra.PARTS[1] / "index.html").write_text("<p>")
    assert extra.files_of_the_tier() != files
    after = extra.parts()
    assert {name for name in parts if after[name] != parts[name]} == {extra.PARTS[1]}
