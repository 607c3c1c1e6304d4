"""Probes of answers on the command line: train, evaluate, calibrate, report."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from program import Run, two_classes, write_rows

MODEL = ("--model", "fake")


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Prompts with calm answers, and with answers that have capitals in them."""
    return written(tmp_path / "answers.jsonl", 0)


def written(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, str]] = []
    for i in range(240):
        letters = rng.integers(97, 123, size=36)
        letters[rng.integers(20)] = 88 if i % 2 else 97
        label = "unsafe" if i % 2 else "safe"
        rows.append({"q": f"say {i}", "a": "".join(map(chr, letters)), "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_probe_of_answers_is_trained_measured_calibrated_and_reported(
    run: Run, answers: Path, tmp_path: Path
) -> None:
    probe, page = tmp_path / "probe", tmp_path / "page.html"
    others = written(tmp_path / "others.jsonl", 1)
    columns = ("--prompt-column", "q", "--response-column", "a", *MODEL, "--data")
    trained = run("train", *columns, answers, "--out", probe, "--live", "--epochs", "2", "--json")
    assert trained.code == 0, trained.err
    card = json.loads((probe / "card.json").read_text())
    assert (card["scope"], card["training"]["prefixes"]) == ("response", "uniform")

    calibrated = run(
        "calibrate", "--probe", probe, *columns, others, "--target-fpr", "0.05", "--json"
    )
    assert calibrated.code == 0, calibrated.err
    assert calibrated.json["rates_of"] == "largest of all tokens"
    (line,) = calibrated.json["thresholds"]

    measured = run(
        "evaluate", "--probe", probe, *columns, others, "--json", "--out", tmp_path / "r.json"
    )
    assert measured.code == 0, measured.err
    assert [one["tokens"] for one in measured.json["running"]["after"]] == [16, 32, None]
    (stop,) = measured.json["running"]["stops"]
    assert stop["false_stops"] == pytest.approx(line["fpr"]) and stop["false_stops"] <= 0.05
    assert json.loads((tmp_path / "r.json").read_text())["running"] == measured.json["running"]

    said = run("evaluate", "--probe", probe, *columns, others)
    assert "after 16 tokens" in said.out and "false stops" in said.out
    assert run("report", tmp_path / "r.json", "--out", page).code == 0
    assert "False stops an answer" in page.read_text(encoding="utf-8")


def test_prefixes_are_none_uniform_or_softmax(run: Run, answers: Path, tmp_path: Path) -> None:
    columns = ("--data", answers, "--prompt-column", "q", "--response-column", "a", *MODEL)
    words = ("--out", tmp_path / "probe", "--live", "--epochs", "1", "--prefixes")
    assert run("train", *columns, *words, "softmax").code == 0
    card = json.loads((tmp_path / "probe" / "card.json").read_text())
    assert card["training"]["prefixes"] == "softmax"
    assert run("train", *columns, *words, "some").code == 2


@pytest.mark.parametrize("scope", ["response", "assistant"])
def test_the_next_step_of_a_probe_of_answers_reads_an_answer(
    run: Run, tmp_path: Path, scope: str
) -> None:
    """It was `predict --text`, which such a probe refuses: a text has no answer."""
    rows = [
        {"prompt": "hello", "response": row["text"], "label": row["label"]}
        for row in two_classes(40)
    ]
    data = write_rows(tmp_path / "chats.jsonl", rows)
    long = ("--on-too-long", "truncate-tail")
    words = ("--data", data, "--model", "fake", "--scope", scope, "--out", tmp_path / "p", *long)
    _, _, command = run("train", *words).out.partition("Next: pillion ")
    assert command.startswith("generate ")
    assert run(*shlex.split(command), "--max-tokens", "4", "--json").json["response"]["p"]["label"]
