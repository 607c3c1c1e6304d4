"""`pillion predict` and `pillion evaluate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from program import Refused, Run, two_classes, write_rows


def test_a_text_gives_one_line_with_label_and_probs(run: Run, probe: Path) -> None:
    ran = run("predict", "--probe", probe, "--text", "what a day", "--model", "fake")
    assert ran.code == 0 and ran.err == ""
    (line,) = ran.lines
    assert line["label"] in {"fine", "poor"}
    assert set(line["probs"]) == {"fine", "poor"}
    assert sum(line["probs"].values()) == pytest.approx(1, abs=1e-5)
    # The decision is by the threshold of the positive label, which the line shows.
    assert (line["label"] == "poor") == (line["probs"]["poor"] >= line["threshold"])


def test_lines_come_in_input_order_whatever_the_lengths(
    run: Run, probe: Path, tmp_path: Path
) -> None:
    texts = ["word " * (1 + (7 * i) % 23) + str(i) for i in range(23)]
    data = write_rows(tmp_path / "texts.jsonl", [{"body": text} for text in texts])
    words = ("predict", "--probe", probe, "--model", "fake")
    lines = run(*words, "--input", data, "--text-column", "body").lines
    assert len(lines) == 23
    for text, line in list(zip(texts, lines, strict=True))[::7]:
        (alone,) = run(*words, "--text", text).lines
        assert alone["probs"] == pytest.approx(line["probs"], abs=2e-6)


def test_json_is_accepted_and_changes_nothing(run: Run, probe: Path) -> None:
    words = ("predict", "--probe", probe, "--text", "a day", "--model", "fake")
    assert run(*words, "--json").out == run(*words).out


def test_lines_go_to_a_file_where_asked(run: Run, probe: Path, tmp_path: Path, data: Path) -> None:
    words = ("predict", "--probe", probe, "--input", data, "--model", "fake")
    printed = run(*words).out
    ran = run(*words, "--out", tmp_path / "lines.jsonl")
    assert ran.out == ""
    assert (tmp_path / "lines.jsonl").read_text("utf-8") == printed
    assert not list(tmp_path.glob(".*"))


def test_several_probes_are_read_in_one_pass(run: Run, probe: Path, tmp_path: Path) -> None:
    shutil.copytree(probe, tmp_path / "twin")
    words = ("--probe", probe, "--probe", tmp_path / "twin", "--text", "x", "--model", "fake")
    (line,) = run("predict", *words).lines
    assert set(line["verdicts"]) == {"mood", "twin"}
    assert line["verdicts"]["mood"]["probs"] == line["verdicts"]["twin"]["probs"] == line["probs"]


def test_texts_given_one_by_one_are_all_labelled(run: Run, probe: Path) -> None:
    """The bug: of several, the last one alone was."""
    words = ("predict", "--probe", probe, "--model", "fake")
    both = run(*words, "--text", "a day", "--text", "a night").lines
    assert both == run(*words, "--text", "a day").lines + run(*words, "--text", "a night").lines


def test_texts_from_nowhere_or_from_two_places_are_refused(
    refused: Refused, probe: Path, data: Path
) -> None:
    words = ["predict", "--probe", probe, "--model", "fake"]
    assert "Got neither --text nor --input; give one" in refused(*words)
    both = refused(*words, "--text", "a", "--input", data)
    assert "Got both --text and --input; give one" in both


def test_texts_of_any_script_are_labelled(run: Run, probe: Path) -> None:
    for text in ("é", "日本語のテキスト", "\u2028", "😀 [red]x[/red]", "a\0b"):
        if text.strip():
            ran = run("predict", "--probe", probe, "--text", text, "--model", "fake")
            assert ran.code == 0, (text, ran.err)


def test_evaluate_prints_one_object(run: Run, probe: Path, data: Path) -> None:
    ran = run("evaluate", "--probe", probe, "--data", data, "--json", "--model", "fake")
    assert ran.code == 0 and ran.err.count("is the file that the probe was trained on") == 1
    assert {"accuracy", "f1", "auprc", "auroc", "ece", "brier", "rows"} <= set(ran.json)
    assert ran.json["accuracy"] >= 0.9 and ran.json["rows"] == 40


def test_evaluate_agrees_with_the_lines_of_predict(run: Run, probe: Path, data: Path) -> None:
    words = ("--probe", probe, "--model", "fake")
    lines = run("predict", *words, "--input", data).lines
    wanted = [json.loads(row)["label"] for row in data.read_text().splitlines()]
    hits = [line["label"] == label for line, label in zip(lines, wanted, strict=True)]
    metrics = run("evaluate", *words, "--data", data, "--json").json
    assert metrics["accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_evaluate_reads_well_without_json(run: Run, probe: Path, data: Path) -> None:
    shown = run("evaluate", "--probe", probe, "--data", data, "--model", "fake").out
    assert "accuracy" in shown and "f1_micro         undefined" in shown


def test_data_of_one_class_leaves_what_needs_two_undefined(
    run: Run, probe: Path, tmp_path: Path
) -> None:
    rows = [row for row in two_classes(20) if row["label"] == "fine"]
    data = write_rows(tmp_path / "one.jsonl", rows)
    ran = run("evaluate", "--probe", probe, "--data", data, "--json", "--model", "fake")
    assert ran.code == 0 and ran.json["auroc"] is None


def test_inspect_shows_the_card(run: Run, probe: Path) -> None:
    card = run("inspect", probe, "--json").json
    assert card["template"] == "chat" and card["labels"] == ["fine", "poor"]
    shown = run("inspect", probe).out
    assert "weights_sha256" in shown and "parameters" in shown
    assert "lovely" not in shown


def test_check_runs_the_canaries_first(run: Run, probe: Path, tmp_path: Path) -> None:
    words = ("predict", "--text", "a day", "--model", "fake", "--check", "--probe")
    assert run(*words, probe).code == 0
    card = json.loads((probe / "card.json").read_text())
    assert len(card["canaries"]["texts"]) == 8

    shutil.copytree(probe, tmp_path / "odd")
    for one in card["canaries"]["texts"]:
        one["logits"] = [value + 3 for value in one["logits"]]
    (tmp_path / "odd" / "card.json").write_text(json.dumps(card))
    ran = run(*words, tmp_path / "odd")
    assert ran.code == 2 and "'odd' does not say here what it said" in ran.err
    assert run(*words[:-2], "--probe", tmp_path / "odd").code == 0

    del card["canaries"]
    (tmp_path / "odd" / "card.json").write_text(json.dumps(card))
    ran = run(*words, tmp_path / "odd")
    assert ran.code == 0 and "no canaries on its card" in ran.err.replace("\n", " ")
