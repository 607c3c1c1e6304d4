"""`pillion bench real` on the fake model: one result file, one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Refused, Run, two_classes, write_rows

WORDS = ("--model", "fake", "--template", "raw", "--sample", 8, "--needles", 3, "--words", 40)


def rows(count: int, shift: int = 0) -> list[dict[str, Any]]:
    made = two_classes(count + shift)[shift:]
    return [{**row, "kind": f"kind {i % 2}"} for i, row in enumerate(made)]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of hundreds of numbers are most of a study's time, and are tested elsewhere."""
    monkeypatch.setattr("pillion_bench.real.measures.NUM_RESAMPLES", 10)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    other = [{**r, "label": {"fine": "no", "poor": "yes"}[r["label"]]} for r in rows(24, 200)]
    return {
        "train": write_rows(tmp_path / "train.jsonl", rows(80)),
        "test": write_rows(tmp_path / "test.jsonl", [*rows(20, 100), *rows(4)]),
        "other": write_rows(tmp_path / "other.jsonl", other),
    }


def test_a_study_measures_every_method_on_every_set(
    run: Run, files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "real.json"
    words = ["--train", files["train"], "--test", files["test"], "--out", out, *WORDS]
    ran = run("bench", "real", *words, "--other", f"more={files['other']}:kind", "--curves", 1)
    assert ran.code == 0, ran.err
    content = json.loads(out.read_text())
    results = content["results"]
    methods = {one["method"] for one in results if one["set"] == "test" and "group" not in one}
    assert {"gate", "the probe on shuffled labels", "muli", "tfidf", "length"} <= methods
    steps = {one["step"] for one in results}
    assert steps == {"test", "other", "perturbation", "long", "duplicates", "curve"}
    assert content["duplicates"]["in_train"] == {"exact": 4, "normal": 4, "near": 5}
    curve = [one for one in results if one["step"] == "curve" and one["method"] == "gate"]
    assert [one["train_rows"] for one in curve] == [8, 16, 32, 64, 72]
    kinds = {one["group"] for one in results if one["set"] == "more" and "group" in one}
    assert kinds == {"kind 0", "kind 1"}
    page = (tmp_path / "real.html").read_text()
    assert "On another source: more" in page and "leetspeak" in page and "<svg" in page
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"train.jsonl", "test.jsonl", "other.jsonl", "real.json", "real.html"}


def test_three_labels_are_studied_without_long_texts(run: Run, tmp_path: Path) -> None:
    labels = ("1", 'a, "b"', "third")
    made = [{"text": f"{'abc'[i % 3] * 5} {i}", "label": labels[i % 3]} for i in range(90)]
    train, test = (
        write_rows(tmp_path / "a.jsonl", made[:60]),
        write_rows(tmp_path / "b.jsonl", made[60:]),
    )
    out = tmp_path / "real.json"
    words = ["--train", train, "--test", test, "--out", out, "--curves", 0, "--baseline", "length"]
    ran = run("bench", "real", *words, *WORDS)
    assert ran.code == 0, ran.err
    assert {one["step"] for one in json.loads(out.read_text())["results"]} == {
        *("test", "perturbation", "duplicates"),
    }


def talk(row: dict[str, Any], number: int) -> dict[str, Any]:
    asked = {"role": "user", "content": f"question {number % 7}"}
    answer = {"role": "assistant", "content": row["text"]}
    return {"messages": [asked, answer], "label": row["label"]}


@pytest.mark.parametrize(
    ("answered", "template", "scope"),
    [(False, "raw", "all"), (False, "chat", "last-user"), (True, "chat", "response")],
)
def test_a_study_reads_what_training_reads_by_default(
    run: Run, tmp_path: Path, answered: bool, template: str, scope: str
) -> None:
    made = [talk(row, n) if answered else row for n, row in enumerate(rows(60))]
    train = write_rows(tmp_path / "train.jsonl", made[:40])
    test, out = write_rows(tmp_path / "test.jsonl", made[40:]), tmp_path / "real.json"
    few = ["--needles", 0, "--curves", 0, "--baseline", "length", "--sample", 0]
    words = ["--train", train, "--test", test, "--out", out, *few]
    ran = run("bench", "real", *words, "--model", "fake", "--template", template)
    assert ran.code == 0, ran.err
    assert json.loads(out.read_text())["settings"]["scope"] == scope


def test_conversations_are_studied_by_the_turns_of_a_scope(run: Run, tmp_path: Path) -> None:
    made = [talk(row, n) for n, row in enumerate(rows(110))]
    train = write_rows(tmp_path / "train.jsonl", made[:80])
    test, out = write_rows(tmp_path / "test.jsonl", made[80:]), tmp_path / "real.json"
    words = ["--train", train, "--test", test, "--out", out, "--curves", 0, *WORDS]
    words += ["--template", "chat"]
    ran = run("bench", "real", *words, "--scope", "response")
    assert ran.code == 0, ran.err
    content = json.loads(out.read_text())
    assert content["settings"]["scope"] == "response"
    results = content["results"]
    assert {one["step"] for one in results} == {"test", "perturbation", "long", "duplicates"}
    lead = {
        one["method"]: one["value"]
        for one in results
        if one["set"] == "test" and one["metric"] == "auprc"
    }
    # Methods of texts have read the answers, which tell the labels; the questions do not.
    assert lead["tfidf"] > 0.9 and {"gate", "muli", "length"} <= lead.keys()
    for more, why in (
        (["--scope", "tool"], "train.jsonl, row 1: no turn of the tool is there"),
        (["--scope", "response", "--template", "raw"], "raw texts have no turns"),
    ):
        ran = run("bench", "real", *words, *more)
        assert ran.code == 2 and why in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--other", "nameless.csv"], "give NAME=FILE"),
        (["--baseline", "lora"], "Unknown baseline 'lora'"),
        (["--kind", "gait"], "Did you mean 'gate'"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    refused: Refused, files: dict[str, Path], tmp_path: Path, words: list[str], sentence: str
) -> None:
    out = tmp_path / "real.json"
    given = ["--train", files["train"], "--test", files["test"], "--out", out, *WORDS]
    assert sentence in refused("bench", "real", *given, *words)
    assert not out.exists()


def test_one_row_a_label_says_that_none_can_be_held_back(
    refused: Refused, files: dict[str, Path], tmp_path: Path
) -> None:
    few = write_rows(tmp_path / "few.jsonl", rows(4)[1:3])
    given = ["--train", few, "--test", files["test"], "--out", tmp_path / "real.json", *WORDS]
    assert "hold some back" in refused("bench", "real", *given)


def test_a_test_file_that_is_the_training_file_is_told_first_thing(
    run: Run, files: dict[str, Path], tmp_path: Path
) -> None:
    few = ["--needles", 0, "--curves", 0, "--baseline", "length", "--sample", 0]
    words = ["--train", files["train"], "--test", files["train"], "--out", tmp_path / "r.json"]
    ran = run("bench", "real", *words, "--model", "fake", *few)
    assert ran.code == 0, ran.err
    assert "holds the training rows" in ran.err.splitlines()[0]
    assert "The test holds the training rows" in (tmp_path / "r.html").read_text()
