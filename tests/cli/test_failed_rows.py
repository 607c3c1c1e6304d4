"""Rows that cannot be used: the others go on, these are listed, and the exit code says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Refused, Run, two_classes, write_rows

from pillion.cache import CacheReader

FAKE = ("--model", "fake")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine rows in two files, three of which cannot be used."""
    made = tmp_path / "rows"
    made.mkdir()
    rows: list[dict[str, Any]] = [{"text": f"text {i}"} for i in range(9)]
    rows[2], rows[5], rows[6] = {"text": " "}, {"text": "x" * 600}, {"text": 7}
    write_rows(made / "a.jsonl", rows[:4])
    write_rows(made / "b.jsonl", rows[4:])
    return made


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_list_of_an_earlier_runs_rows_goes_with_them(run: Run, tmp_path: Path) -> None:
    """It stayed, and named rows that had been mended since."""
    bad = write_rows(tmp_path / "bad.jsonl", [*two_classes(24), {"text": "", "label": "fine"}])
    words = ("train", "--model", "fake", "--skip-bad-rows", "--out", tmp_path / "p", "--data")
    assert run(*words, bad).code == 0 and (tmp_path / "p.failed.jsonl").exists()
    good = write_rows(tmp_path / "good.jsonl", two_classes(24))
    assert run(*words, good).code == 0 and not (tmp_path / "p.failed.jsonl").exists()


def test_extraction_keeps_the_other_rows_in_their_places(
    run: Run, tmp_path: Path, folder: Path
) -> None:
    ran = run("extract", "--data", folder, "--out", tmp_path / "out", *FAKE, "--json")
    assert ran.code == 1
    assert ran.json["rows"] == 9 and ran.json["failed"] == 3
    sentence = ran.err.splitlines()[-1]
    assert "3 of 9 rows failed" in sentence and f"row 3 of {folder}/a.jsonl" in sentence
    assert str(tmp_path / "out" / "failed.jsonl") in sentence
    with CacheReader(tmp_path / "out" / "train") as reader:
        lengths = reader.spec.lengths
        assert [row for row, length in enumerate(lengths) if not length] == [2, 5, 6]
        assert reader.read(8).shape == (4, lengths[8], 16)


def test_the_side_file_says_where_and_why_without_the_text(
    run: Run, tmp_path: Path, folder: Path
) -> None:
    run("extract", "--data", folder, "--out", tmp_path / "out", *FAKE)
    first, second, third = lines(tmp_path / "out" / "failed.jsonl")
    assert first == {
        "row": 3,
        "file": f"{folder}/a.jsonl",
        "row_of_file": 3,
        "reason": "an empty or null text; fill or remove it",
    }
    assert (second["row"], second["file"], second["row_of_file"]) == (6, f"{folder}/b.jsonl", 2)
    assert "602 tokens, the model takes 512" in second["reason"] and "xx" not in second["reason"]
    assert third["row"] == 7 and "not a string" in third["reason"]


def test_no_failed_row_leaves_no_side_file(run: Run, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "x"}])
    assert run("extract", "--data", data, "--out", out, *FAKE).code == 0
    assert [path.name for path in out.iterdir()] == ["train"]


def test_a_long_row_does_not_fail_where_it_may_be_cut(
    run: Run, tmp_path: Path, folder: Path
) -> None:
    words = ("extract", "--data", folder, "--out", tmp_path / "out", *FAKE, "--json")
    ran = run(*words, "--on-too-long", "truncate-tail")
    assert ran.code == 1 and ran.json["failed"] == 2


def test_data_without_a_single_usable_row_is_refused(refused: Refused, tmp_path: Path) -> None:
    long = write_rows(tmp_path / "long.jsonl", [{"text": "x" * 600}, {"text": ""}])
    message = refused("extract", "--data", long, "--out", tmp_path / "out", *FAKE)
    assert "long.jsonl" in message and "Row 1" in message
    assert not (tmp_path / "out").exists()


def test_predicted_lines_stay_in_step_with_their_rows(
    run: Run, probe: Path, tmp_path: Path, folder: Path
) -> None:
    out = tmp_path / "lines.jsonl"
    ran = run("predict", "--probe", probe, "--input", folder, "--out", out, *FAKE)
    assert ran.code == 1 and ran.out == ""
    assert "3 of 9 rows failed" in ran.err and str(tmp_path / "lines.failed.jsonl") in ran.err
    labels = [line["label"] for line in lines(out)]
    assert [row for row, label in enumerate(labels) if label is None] == [2, 5, 6]
    assert lines(out)[5]["probs"] is None and "602 tokens" in lines(out)[5]["error"]
    assert [one["row"] for one in lines(tmp_path / "lines.failed.jsonl")] == [3, 6, 7]


def test_printed_lines_hold_the_reasons_themselves(run: Run, probe: Path, folder: Path) -> None:
    ran = run("predict", "--probe", probe, "--input", folder, *FAKE)
    assert ran.code == 1 and len(ran.lines) == 9
    assert "empty" in ran.lines[2]["error"] and "error" not in ran.lines[3]
    assert "under error" in ran.err


def test_texts_none_of_which_can_be_predicted_are_refused(
    refused: Refused, probe: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "long.jsonl", [{"text": "x" * 600}])
    out = tmp_path / "lines.jsonl"
    message = refused("predict", "--probe", probe, "--input", data, "--out", out, *FAKE)
    assert "Row 1" in message and not out.exists()


def test_workers_without_a_cluster_are_refused(refused: Refused, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "x"}])
    words = ("extract", "--data", data, "--out", tmp_path / "out", *FAKE)
    assert "--ray" in refused(*words, "--ray-workers", "2")
