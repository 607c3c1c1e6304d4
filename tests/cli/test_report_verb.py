"""`pillion report` and `pillion evaluate --out`: files in, one page out."""

from __future__ import annotations

import json
from pathlib import Path

from program import Refused, Run, two_classes, write_rows

WORDS = ("--model", "fake")


def test_a_probe_on_data_makes_a_page_without_a_file_between(
    run: Run, probe: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    ran = run("report", "--probe", probe, "--data", data, *WORDS, "--out", out, "--json")
    assert ran.code == 0, ran.err
    page = out.read_text()
    assert ran.json == {
        "out": str(out),
        "sections": ["evaluation-mood"],
        "bytes": len(page.encode()),
    }
    assert "mood on rows.jsonl" in page and "what a lovely day" in page


def test_result_files_of_evaluate_make_the_page_later_and_without_texts(
    run: Run, probe: Path, data: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    plain = run("evaluate", "--probe", probe, "--data", data, *WORDS, "--json")
    ran = run("evaluate", "--probe", probe, "--data", data, *WORDS, "--json", "--out", result)
    assert ran.json == plain.json
    content = json.loads(result.read_text())
    assert {e["metric"]: e["value"] for e in content["results"]}.items() <= ran.json.items()
    assert "lovely" not in result.read_text()
    ran = run("report", result, result, "--out", tmp_path / "page.html", "--title", "Two")
    assert ran.code == 0 and "2 sections" in ran.out
    assert "<title>Two</title>" in (tmp_path / "page.html").read_text()


def test_a_row_a_class_makes_a_page(run: Run, probe: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "few.jsonl", two_classes(4)[1:3])
    out = tmp_path / "page.html"
    ran = run("report", "--probe", probe, "--data", rows, *WORDS, "--out", out)
    assert ran.code == 0, ran.err


def test_what_cannot_be_reported_is_refused(
    refused: Refused, probe: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    assert "Give result files" in refused("report", "--out", out)
    assert "go together" in refused("report", "--probe", probe, "--out", out)
    assert "is no result file" in refused("report", data, "--out", out)
    assert "is a folder" in refused("report", data, "--out", tmp_path)
    long = write_rows(tmp_path / "long.jsonl", [{"text": "word " * 9000, "label": "fine"}])
    sentence = refused("report", "--probe", probe, "--data", long, *WORDS, "--out", out)
    assert "truncate-tail" in sentence
    assert not out.exists()
