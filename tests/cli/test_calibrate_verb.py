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
        (["--abstain", "1.5"], "abstain is 1.5"),
        (["--target-fpr", "0.01"], "99 rows"),
        (["--target-fpr", "2"], "target-fpr is 2"),
        (["--coverage", "0"], "The coverage is 0"),
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


def test_what_the_task_or_the_rows_rule_out_is_refused_before_the_model_loads(
    refused: Refused, run: Run, probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--best-f1` on three labels was refused after a pass over every row."""
    three = [{"text": f"{name} {i}", "label": name} for name in "abc" for i in range(8)]
    many = write_rows(tmp_path / "three.jsonl", three)
    folder = tmp_path / "many"
    assert run("train", "--data", many, *WORDS, "--out", folder).code == 0
    more = write_rows(tmp_path / "more.jsonl", [r | {"text": r["text"] + "!"} for r in three])
    lacking = write_rows(tmp_path / "lacking.jsonl", three[:10])
    one_side = write_rows(
        tmp_path / "one.jsonl", [r for r in two_classes(20) if r["label"] == "fine"]
    )

    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pillion.runtime.LanguageModel.load", load)
    words = ["calibrate", "--probe", folder, "--data", more, *WORDS]
    assert "likeliest label decides" in refused(*words, "--best-f1")
    assert "target-fnr is for" in refused(*words, "--target-fpr", "0.1", "--target-fnr", "0.1")
    words = ["calibrate", "--probe", folder, "--data", lacking, *WORDS, "--method", "platt"]
    assert "no row of 'c'" in refused(*words)
    assert "no row of 'poor'" in refused("calibrate", "--probe", probe, "--data", one_side, *WORDS)


def test_it_says_whether_the_calibration_is_kept(run: Run, probe: Path, noisy: Path) -> None:
    words = ["calibrate", "--probe", probe, "--data", noisy, *WORDS, "--out", noisy.parent / "new"]
    ran = run(*words, "--json")
    scores = ran.json["comparison"]
    better = all(scores["new"][name] < scores["present"][name] for name in scores["new"])
    assert (scores["kept"] == "new") == better
    assert ran.json["method"] == ("temperature" if better else "none")
    said = "and kept" if better else "not kept"
    assert said in run(*words).out
