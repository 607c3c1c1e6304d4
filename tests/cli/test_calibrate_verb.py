"""`pillion calibrate`: a probe's card afterwards, what predict then says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import Refused, Run, two_classes, write_rows

WORDS = ("--model", "fake")


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """A hundred rows; every tenth label is wrong."""
    rows = two_classes(100)
    for row in rows[::10]:
        row["label"] = "poor" if row["label"] == "fine" else "fine"
    return write_rows(tmp_path / "noisy.jsonl", rows)


def test_a_calibrated_probe_is_another_folder_and_predict_goes_by_it(
    run: Run, probe: Path, noisy: Path, tmp_path: Path
) -> None:
    before = (probe / "card.json").read_bytes()
    wishes = ["--method", "platt", "--abstain", "0.0,1.0", "--coverage", "0.9", "--best-f1"]
    words = ["--probe", probe, "--data", noisy, *WORDS, *wishes]
    ran = run("calibrate", *words, "--out", tmp_path / "new", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["method"] == "platt"
    assert ran.json["data"]["num_rows"] == 100
    assert ran.json["abstain"] == [[0.0, 1.0]]
    card = json.loads((tmp_path / "new" / "card.json").read_text())
    assert card["calibration"] == ran.json["calibration"]
    assert card["thresholds"] == [line["threshold"] for line in ran.json["thresholds"]]
    assert (probe / "card.json").read_bytes() == before
    (line,) = run("predict", "--probe", tmp_path / "new", "--text", "awful", *WORDS).lines
    assert line["decision"] == "abstain"
    assert line["label"] in ("fine", "poor")
    assert set(line["prediction_set"]) <= {"fine", "poor"}
    said = run(
        "generate", "awful", "--probe", tmp_path / "new", *WORDS, "--json", "--max-tokens", 2
    )
    assert said.json["prompt"]["new"]["decision"] == "abstain"


def test_without_out_the_probe_itself_is_revised(run: Run, probe: Path, noisy: Path) -> None:
    folder = noisy.parent / "mood"
    folder.mkdir()
    for file in probe.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    ran = run("calibrate", "--probe", folder, "--data", noisy, *WORDS)
    assert ran.code == 0, ran.err
    assert "temperature" in ran.out and "undefined" in ran.out
    assert json.loads((folder / "card.json").read_text())["calibration"]["method"] == "temperature"


def test_a_plain_probe_says_neither_decision_nor_set(run: Run, probe: Path) -> None:
    (line,) = run("predict", "--probe", probe, "--text", "awful", *WORDS).lines
    assert set(line) == {"label", "probs", "threshold"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--abstain", "much"], "give a share"),
        (["--abstain", "0.1,0.2,0.3"], "give a share"),
        (["--abstain", "1.5"], "--abstain is 1.5"),
        (["--target-fpr", "0.01"], "99 rows"),
        (["--target-fpr", "2"], "--target-fpr is 2"),
        (["--coverage", "0"], "--coverage is 0"),
        (["--cost-fp", "1"], "go together"),
    ],
)
def test_wishes_that_cannot_be_met_leave_the_card_as_it_was(
    refused: Refused, probe: Path, noisy: Path, words: list[str], sentence: str
) -> None:
    before = (probe / "card.json").read_bytes()
    assert sentence in refused("calibrate", "--probe", probe, "--data", noisy, *WORDS, *words)
    assert (probe / "card.json").read_bytes() == before


def test_labels_that_the_probe_does_not_know_are_refused(
    refused: Refused, probe: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "other.jsonl", [{"text": "x", "label": "unheard"}])
    assert "unheard" in refused("calibrate", "--probe", probe, "--data", rows, *WORDS)
