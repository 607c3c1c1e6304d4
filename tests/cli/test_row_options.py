"""Options of reading rows, the same in every verb that reads any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Refused, Run, two_classes, write_rows

from pillion.probe import Artefact

FAKE = ("--model", "fake")
READERS = ("train", "evaluate", "calibrate", "explain", "report", "layers", "predict", "extract")
TEXTS = ("--text-column", "--messages-column", "--prompt-column", "--response-column")
TABLES = ("--delimiter", "--encoding", "--skip-bad-rows")
LABELS = ("--label-column", "--label-columns", "--turn-labels", "--row-labels", "--multi-label")


def train(run: Run, data: Path, out: Path, *words: str | Path) -> Any:
    ran = run("train", "--data", data, "--out", out, *FAKE, "--epochs", "1", "--json", *words)
    assert ran.code == 0, ran.err
    return ran.json | {"said": ran.err}


@pytest.mark.parametrize("verb", [*READERS, "bench real"])
def test_every_verb_that_reads_rows_takes_the_same_options(run: Run, verb: str) -> None:
    shown = run(*verb.split(), "--help").out
    labels = () if verb in ("predict", "extract") else LABELS
    assert [name for name in (*TEXTS, *TABLES, *labels) if name not in shown] == []


def test_a_file_with_semicolons_is_trained_on_and_it_is_said(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "semi.csv"
    lines = [f"{row['text'].replace(',', '')};{row['label']}" for row in two_classes(40)]
    data.write_text("\n".join(["text;label", *lines]))
    facts = train(run, data, tmp_path / "p")
    assert "';' between its fields" in facts["said"]
    assert any("';'" in note for note in facts["notes"])
    assert Artefact.load(tmp_path / "p").card.labels == ("fine", "poor")
    given = train(run, data, tmp_path / "q", "--delimiter", ";")
    assert "between its fields" not in given["said"]


def test_columns_of_zeros_and_ones_train_a_probe_of_several_labels(
    run: Run, tmp_path: Path
) -> None:
    rows = [
        {"text": f"text {n}", "a": n % 2, "b": None if n % 3 else 1, "c": 1 - n % 2}
        for n in range(60)
    ]
    data = write_rows(tmp_path / "r.jsonl", rows)
    facts = train(run, data, tmp_path / "p", "--label-columns", "a,b,c")
    card = Artefact.load(tmp_path / "p").card
    assert (card.task, card.labels) == ("multilabel", ("a", "b", "c"))
    assert all(value is None or 0 <= value <= 1 for value in facts["validation"].values())
    words = ("--probe", tmp_path / "p", "--data", data, "--label-columns", "a,b,c", *FAKE)
    assert run("evaluate", *words, "--json").json["rows"] == 60


@pytest.mark.parametrize("other", ["--soft-column", "--label-columns"])
def test_labels_in_two_places_are_refused(refused: Refused, tmp_path: Path, other: str) -> None:
    """The one column was read, and the other passed over."""
    words = ("train", "--data", write_rows(tmp_path / "x.jsonl", two_classes(8)), *FAKE)
    told = refused(*words, "--out", tmp_path / "p", "--label-column", "mood", other, "odd")
    assert f"Got --label-column mood beside {other}" in told


def test_train_shows_rows_of_each_label_and_keeps_them_on_the_card(
    run: Run, tmp_path: Path
) -> None:
    """With 999 rows to one it said `accuracy 1.000`, and nothing else."""
    rows = [{"text": f"text {n}", "label": "rare" if n == 7 else "ok"} for n in range(100)]
    rows.append({"text": "Text  9", "label": "ok"})
    rows.append({"text": "text 10", "label": "rare"})
    data = write_rows(tmp_path / "r.jsonl", rows)
    words = ("train", "--data", data, "--out", tmp_path / "p", *FAKE, "--epochs", "1")
    ran = run(*words)
    assert ran.code == 0
    table = [line.split() for line in ran.out.splitlines()[:3]]
    assert table[0] == ["label", "train", "validation", "share"]
    counts = {line[0]: int(line[1]) + int(line[2]) for line in table[1:]}
    assert counts == {"ok": 100, "rare": 2}
    assert "fewer than 20 training rows" in ran.err and "'rare' (2)" in ran.err
    assert "1 text stands under different labels, as in rows 11 and 102." in ran.err
    card = Artefact.load(tmp_path / "p").card
    assert [(one.label, one.train + one.validation) for one in card.data.labels] == [
        *counts.items()
    ]
    told = run(*words, "--json").json
    assert told["labels"] == [one.model_dump() for one in card.data.labels]
    assert told["notes"] == list(card.data.notes)


def test_an_undefined_metric_is_said_to_be_so_with_the_reason(
    run: Run, tmp_path: Path, probe: Path
) -> None:
    data = write_rows(tmp_path / "r.jsonl", [{"text": "x", "label": "fine"}] * 3)
    ran = run("evaluate", "--probe", probe, "--data", data, *FAKE)
    lines = {line.split()[0]: line for line in ran.out.splitlines() if line}
    assert lines["auprc"].endswith("undefined (every row is on one side)")
    assert lines["f1"].endswith("undefined (no row has the label)")
    one_sided = write_rows(tmp_path / "v.jsonl", [{"text": "x", "label": "fine"}] * 3)
    words = ("--data", write_rows(tmp_path / "d.jsonl", two_classes(40)), "--validation")
    ran = run("train", *words, one_sided, "--out", tmp_path / "p", *FAKE, "--epochs", "1")
    assert "auprc undefined (every row is on one side)" in ran.out
    assert "Validation has no row of 'poor'" in ran.err


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Forty good rows, with four that are none: no JSON, no text, no label, too long a text."""
    rows = [json.dumps(row) for row in two_classes(40)]
    rows[3:3] = ["{broken", '{"text": " ", "label": "fine"}', '{"text": "x"}']
    rows[20:20] = [json.dumps({"text": "x" * 600, "label": "poor"})]
    (tmp_path / "bad.jsonl").write_text("\n".join(rows))
    return tmp_path / "bad.jsonl"


def reasons(path: Path) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(line["row_of_file"], line["reason"]) for line in lines]


def test_training_leaves_bad_rows_out_where_that_is_asked_for(
    run: Run, tmp_path: Path, bad: Path
) -> None:
    words = ("train", "--data", bad, "--out", tmp_path / "p", *FAKE, "--epochs", "1")
    ran = run(*words)
    assert ran.code == 2 and "not valid JSON at line 4" in ran.err
    ran = run(*words, "--validation", bad, "--skip-bad-rows")
    assert ran.code == 0, ran.err
    assert "4 of 44 rows" in ran.err and "p.failed.jsonl" in ran.err
    assert Artefact.load(tmp_path / "p").card.data.num_rows == 40
    found = reasons(tmp_path / "p.failed.jsonl")
    assert [row for row, _ in found] == [4, 5, 6, 21]
    assert "602 tokens" in found[3][1] and "xx" not in found[3][1]
    assert reasons(tmp_path / "p.validation.failed.jsonl") == found


def test_measuring_leaves_bad_rows_out_where_that_is_asked_for(
    run: Run, tmp_path: Path, bad: Path, probe: Path
) -> None:
    words = ("--probe", probe, "--data", bad, *FAKE, "--skip-bad-rows")
    ran = run("evaluate", *words, "--out", tmp_path / "found.json", "--json")
    assert ran.code == 0 and ran.json["rows"] == 40, ran.err
    assert len(reasons(tmp_path / "found.failed.jsonl")) == 4
    told = run("evaluate", *words, "--json")
    assert f"row 21 of {bad}" in told.err and "602 tokens" in told.err
    assert run("report", *words, "--out", tmp_path / "page.html").code == 0
    assert len(reasons(tmp_path / "page.failed.jsonl")) == 4
    assert run("calibrate", *words, "--out", tmp_path / "c").code == 0
    assert len(reasons(tmp_path / "c.failed.jsonl")) == 4
    assert run("explain", *words, "--json").json["rows"] == 40


def test_layers_are_studied_without_bad_rows(run: Run, tmp_path: Path, bad: Path) -> None:
    words = ("--data", bad, *FAKE, "--skip-bad-rows", "--out", tmp_path / "layers.json", "--json")
    (data,) = run("layers", *words).json["data"]
    assert data["num_rows"] == 40
    assert len(reasons(tmp_path / "layers.failed.jsonl")) == 4


def test_predicting_and_extracting_succeed_where_rows_may_be_left_out(
    run: Run, tmp_path: Path, bad: Path, probe: Path
) -> None:
    words = ("predict", "--probe", probe, "--input", bad, *FAKE)
    assert run(*words).code == 2
    ran = run(*words, "--skip-bad-rows", "--out", tmp_path / "lines.jsonl")
    assert ran.code == 0 and "3 of 44 rows failed" in ran.err
    # A row without a label has a text all the same.
    assert [row for row, _ in reasons(tmp_path / "lines.failed.jsonl")] == [4, 5, 21]
    words = ("extract", "--data", bad, "--out", tmp_path / "states", *FAKE, "--skip-bad-rows")
    assert run(*words).code == 0
