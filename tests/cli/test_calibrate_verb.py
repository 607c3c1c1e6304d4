"""`pillion calibrate`: a probe's card afterwards, what predict then says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import Refused, Run, two_classes, write_rows

from pillion.cli import main

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
    assert "chosen on all these rows" not in ran.out
    assert json.loads((folder / "card.json").read_text())["calibration"]["method"] == "temperature"


def test_numbers_at_thresholds_of_these_very_rows_are_said_to_be_so(
    run: Run, probe: Path, noisy: Path, tmp_path: Path
) -> None:
    """F1 at a threshold stood under "rows left out of the fit", and had chosen the threshold."""
    words = ["--probe", probe, "--data", noisy, *WORDS, "--out", tmp_path / "new"]
    ran = run("calibrate", *words, "--method", "none", "--best-f1")
    assert ran.code == 0, ran.err
    assert "at thresholds or bands that were chosen on all these rows" in ran.out


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


# --- exits


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe with depths; not to be changed."""
    folder = tmp_path_factory.mktemp("deep")
    rows = write_rows(folder / "rows.jsonl", two_classes(120))
    words = ["--data", str(rows), *WORDS, "--out", str(folder / "mood"), "--lr", "0.03"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *words, "--depths", "auto", "--epochs", "4"])
    assert stop.value.code == 0
    return folder / "mood"


def test_exits_go_on_the_card_and_predict_goes_by_them_unless_told_not_to(
    run: Run, deep: Path, tmp_path: Path
) -> None:
    held = two_classes(200)
    for row in held[::10]:  # so that no calibrated probability is 0 or 1
        row["label"] = "poor" if row["label"] == "fine" else "fine"
    rows, out = write_rows(tmp_path / "held.jsonl", held), tmp_path / "new"
    words = ["--probe", deep, "--data", rows, *WORDS, "--exit", "0.05", "--out", out]
    ran = run("calibrate", *words, "--json")
    assert ran.code == 0, ran.err
    card = json.loads((out / "card.json").read_text())
    assert card["depths"] == [0, 1, 2] and card["exit"] == ran.json["exit"]
    assert card["exit"]["found"]["differing_at_most"] <= 0.05
    some = write_rows(tmp_path / "some.jsonl", [{"text": text} for text in ("x", "day", "it 7")])
    words = ["--probe", out, "--input", some, *WORDS]
    early, whole = run("predict", *words).lines, run("predict", *words, "--no-exit").lines
    plain = run("predict", "--probe", deep, "--input", some, *WORDS).lines
    assert len(early) == len(whole) == 3 and early != whole
    assert [line["label"] for line in whole] == [line["label"] for line in plain]
    again = run("calibrate", "--probe", out, "--data", rows, *WORDS)
    assert "exits were chosen beside other decisions, and are gone" in again.err
    assert json.loads((out / "card.json").read_text())["exit"] is None


def test_the_exits_that_were_chosen_are_told_in_words(run: Run, deep: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "held.jsonl", two_classes(200))
    words = ["--probe", deep, "--data", rows, *WORDS, "--exit", "0.05", "--out", tmp_path / "new"]
    ran = run("calibrate", *words)
    assert "of the decisions differ (at most 0.0" in ran.out
    assert "texts leave at layers: " in ran.out


def test_exits_that_cannot_be_had_are_refused(
    refused: Refused, probe: Path, deep: Path, noisy: Path
) -> None:
    words = ["--data", noisy, *WORDS]
    said = refused("calibrate", "--probe", probe, *words, "--exit", "0.05")
    assert "has no read-outs at depths" in said
    said = refused("calibrate", "--probe", deep, *words, "--exit", "0.01")
    assert "takes 299 rows to show, got 100" in said
    said = refused("calibrate", "--probe", deep, *words, "--patience", "2")
    assert "--patience is a rule of exits" in said
    said = refused("calibrate", "--probe", deep, *words, "--exit", "0.05", "--coverage", "0.9")
    assert "at full depth alone" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--depths", "3"], "rising and below its last (3)"),
        (["--depths", "9"], "--depths has '9'; this model has layers 0 to 3"),
        (["--depths", "1", "--layers", "0,2,3"], "give layers that the probe reads"),
        (["--depths", "auto", "--kind", "pooling"], "'pooling' has no read-outs at depths"),
        (["--depths", "auto", "--layers", "3"], "No layer is read below the last"),
    ],
)
def test_depths_that_cannot_be_had_are_refused_before_states_are_extracted(
    refused: Refused, data: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    out = tmp_path / "out"
    assert sentence in refused("train", "--data", data, *WORDS, "--out", out, *words)
    assert not out.exists()
