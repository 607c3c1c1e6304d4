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


def test_rows_that_the_probe_was_trained_on_are_told_first_thing(
    run: Run, probe: Path, data: Path, tmp_path: Path
) -> None:
    """Only `calibrate` said so, and only after its pass."""
    own = probe.parent / "rows.jsonl"
    page = tmp_path / "page.html"
    sentence = "rows.jsonl is the file that the probe was trained on"
    for verb in (
        ("evaluate",),
        ("report", "--out", page),
        ("calibrate", "--out", tmp_path / "new", "--method", "none"),
    ):
        ran = run(*verb, "--probe", probe, "--data", own, *WORDS)
        assert ran.code == 0, ran.err
        assert sentence in ran.err.splitlines()[0]
    warning = "These are the rows that the probe was trained on"
    assert warning in page.read_text()
    others = write_rows(tmp_path / "others.jsonl", two_classes(80)[40:])
    ran = run("report", "--out", page, "--probe", probe, "--data", others, *WORDS)
    assert "trained on" not in ran.err and warning not in page.read_text()


def test_evaluate_shows_each_label_with_intervals_and_what_comes_next(
    run: Run, probe: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "it's.json"
    ran = run("evaluate", "--probe", probe, "--data", data, *WORDS, "--out", out)
    lines = ran.out.splitlines()
    assert lines[-1].endswith(f"pillion report '{tmp_path}/it'\"'\"'s.json' --out report.html")
    header = next(i for i, line in enumerate(lines) if line.startswith("label"))
    assert lines[header].split() == ["label", "rows", "precision", "recall", "f1"]
    assert lines[header + 1].split()[:2] == ["poor", "20"]
    # Sentences of the card are as long as they are; they are no table.
    assert max(len(line) for line in lines[:-1] if not line.startswith("- ")) <= 96
    found = run("evaluate", "--probe", probe, "--data", data, *WORDS, "--json").json["labels"]
    (label,) = found
    low, high = label["recall_interval"]
    assert label["label"] == "poor" and 0 <= low <= label["recall"] <= high <= 1
    ran = run("evaluate", "--probe", probe, "--data", data, *WORDS)
    wanted = f"--probe {probe} --data {data} --model fake --out report.html"
    assert ran.out.splitlines()[-1].endswith(wanted)
