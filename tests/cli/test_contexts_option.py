"""`--contexts` of `train`, `evaluate` and `calibrate`: rows behind turns of the user's own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import Refused, Run, two_classes, write_rows

from pillion.probe import Artefact

TURNS = ("be brief", [("user", "an awful mess"), ("assistant", "a lovely day")])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two contexts: a system prompt, and an exchange that speaks of the other label."""
    system = [{"role": "system", "content": TURNS[0]}]
    earlier = [{"role": role, "content": words} for role, words in TURNS[1]]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in (system, earlier)))
    return path


def test_a_probe_is_trained_and_measured_in_contexts_of_a_file(
    run: Run, tmp_path: Path, data: Path, own: Path
) -> None:
    out, found = tmp_path / "mood", tmp_path / "found.json"
    options = ("--model", "fake", "--contexts", own)
    assert run("train", "--data", data, "--out", out, "--lr", "0.03", *options).code == 0
    facts = {"name": "own.jsonl", "num": 2}
    assert facts.items() <= Artefact.load(out).card.training["contexts"].items()  # type: ignore[union-attr]
    words = ("--probe", out, "--data", data, "--out", found, "--json")
    ran = run("evaluate", *words, *options)
    assert ran.code == 0, ran.err
    assert ran.json["rows"] == 40 and ran.json["accuracy"] > 0.9
    assert facts.items() <= json.loads(found.read_text())["data"][0]["contexts"].items()


def test_decisions_are_chosen_in_contexts(run: Run, tmp_path: Path, own: Path, probe: Path) -> None:
    others = write_rows(tmp_path / "others.jsonl", two_classes(44))
    words = ("--probe", probe, "--data", others, "--out", tmp_path / "calibrated", "--best-f1")
    ran = run("calibrate", *words, "--model", "fake", "--contexts", own, "--json")
    assert ran.code == 0, ran.err
    decisions = Artefact.load(tmp_path / "calibrated").card.decisions
    assert decisions is not None
    assert decisions["data"]["num_rows"] == 44  # type: ignore[index]
    assert decisions["data"]["contexts"]["name"] == "own.jsonl"  # type: ignore[index]


def test_shipped_contexts_too_long_for_a_small_model_are_left_out_and_said(
    run: Run, tmp_path: Path, data: Path
) -> None:
    words = ("--data", data, "--out", tmp_path / "mood", "--model", "fake", "--epochs", "1")
    ran = run("train", *words, "--contexts", "shipped")
    assert ran.code == 0, ran.err
    assert "contexts of shipped the model does not take" in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--contexts", "none-such.jsonl"), "none-such.jsonl does not exist"),
        (("--contexts", "shipped", "--template", "raw"), "raw texts have none"),
        (("--contexts", "shipped", "--scope", "all"), "the scope 'all' would read them"),
    ],
)
def test_contexts_that_cannot_be_are_refused(
    refused: Refused, tmp_path: Path, data: Path, words: tuple[str, ...], sentence: str
) -> None:
    common = ("train", "--data", data, "--out", tmp_path / "mood", "--model", "fake")
    assert sentence in refused(*common, *words)
