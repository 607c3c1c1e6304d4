"""The programs of the how-to pages on rows that a user's own tables have, without any model."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from documented import ROOT, steps

REVIEW = ROOT / "docs" / "howto" / "review-and-relabel.md"


def run_program(name: str, place: Path) -> str:
    """Runs a file of the page in a folder; gives what it prints."""
    content = dict(steps(REVIEW.read_text(encoding="utf-8")))[f"file: {name}"]
    (place / name).write_text(content, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, name], cwd=place, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def verdict(label: str | None, prob: float = 0.0) -> str:
    probs = None if label is None else {label: prob, "other": 1 - prob}
    return json.dumps({"label": label, "probs": probs})


def test_rows_without_a_verdict_are_passed_over_and_the_least_sure_come_first(
    tmp_path: Path,
) -> None:
    """An empty text in a log ended the program: its line has no probabilities."""
    (tmp_path / "log.csv").write_text('text\nsure\n""\ndoubtful\n', encoding="utf-8")
    lines = [verdict("a", 0.9), verdict(None), verdict("b", 0.6)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = run_program("doubtful.py", tmp_path)
    with (tmp_path / "review.csv").open(newline="", encoding="utf-8") as file:
        assert [(row["text"], row["label"]) for row in csv.DictReader(file)] == [
            ("doubtful", "b"),
            ("sure", "a"),
        ]
    assert "2 rows to look at, the surest of them 0.90" in said


@pytest.mark.parametrize(
    "table", ["text,label\nold,a", "label,id,text\na,7,old\n"], ids=["no line end", "columns"]
)
def test_reviewed_rows_join_tables_of_any_columns_and_with_no_last_line_end(
    table: str, tmp_path: Path
) -> None:
    """The first reviewed row was glued to a last row without a line end, columns were mixed up."""
    (tmp_path / "tickets.csv").write_text(table, encoding="utf-8")
    (tmp_path / "new-tickets.csv").write_text("text,label\nx,a\ny,b\n", encoding="utf-8")
    (tmp_path / "review.csv").write_text("text,label,sure\ny,a,0.5\n", encoding="utf-8")
    said = run_program("reviewed.py", tmp_path)
    with (tmp_path / "more-tickets.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["text", "label"], ["old", "a"], ["y", "b"]]
    assert "1 of 1 guesses were wrong" in said
