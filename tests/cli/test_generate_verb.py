"""`pillion generate` and `pillion demo`, on the shipped engine without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import Run
from rich.cells import cell_len

from pillion.backends.fake import FakeBackend
from pillion.cli import streaming
from pillion.data import Rows

FAKE = ("--model", "fake")


def test_an_answer_comes_with_verdicts_of_prompt_and_response(run: Run, probe: Path) -> None:
    ran = run("generate", "hi", "--probe", probe, *FAKE, "--max-tokens", "9", "--json")
    assert ran.code == 0 and ran.err == ""
    done = ran.json
    assert done["num_tokens"] <= 9 and done["finish_reason"] in {"length", "stop"}
    assert done["prompt"]["mood"]["label"] in {"fine", "poor"}
    assert set(done["response"]["mood"]["probs"]) == {"fine", "poor"}


def test_verdicts_of_the_prompt_are_those_of_predict(run: Run, probe: Path) -> None:
    words = ("--probe", probe, *FAKE)
    (line,) = run("predict", *words, "--text", "a lovely day").lines
    answer = run("generate", "a lovely day", *words, "--max-tokens", "2", "--json").json
    assert answer["prompt"]["mood"]["probs"] == pytest.approx(line["probs"], abs=2e-6)


def test_an_answer_without_probes_is_an_answer(run: Run) -> None:
    answer = run("generate", "hi", *FAKE, "--max-tokens", "3", "--json").json
    assert answer["prompt"] == {} and answer["response"] == {}
    assert run("generate", "hi", *FAKE, "--max-tokens", "3").code == 0


def test_the_seed_decides_what_is_drawn(run: Run) -> None:
    words = ("generate", "hi", *FAKE, "--temperature", "5", "--max-tokens", "12", "--json")
    one, same, other = (run(*words, "--seed", seed).json["text"] for seed in ("1", "1", "2"))
    assert one == same != other


def test_a_score_stands_under_every_character(run: Run, probe: Path) -> None:
    shown = run("generate", "hi", "--probe", probe, *FAKE, "--max-tokens", "120").out
    head, *lines = shown.splitlines()
    assert head.split()[0] == "mood"
    texts, scores = lines[::2], lines[1::2]
    assert len(texts) == len(scores) >= 1
    for text, score in zip(texts, scores, strict=True):
        bars, _, label = score[13:].rpartition("  ")
        assert len(bars) == cell_len(text[13:])
        assert label.split()[0] in {"fine", "poor"}


def test_control_codes_of_an_answer_do_not_reach_the_terminal(
    run: Run, probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "decode", lambda *_: "\x1b[2Jboo\r\n\x07")
    ran = run("generate", "hi", "--probe", probe, *FAKE, "--max-tokens", "4")
    assert ran.code == 0
    assert not set(ran.out) & set("\x1b\r\x07")
    assert streaming.STEPS[0] == " "


def test_the_demo_trains_once_and_shows_what_its_probes_say(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILLION_CACHE", str(tmp_path))
    monkeypatch.setattr("pillion.cli.demo.PAIRS", 1)
    monkeypatch.setattr("pillion.cli.demo.MAX_TOKENS", 4)
    monkeypatch.setattr(
        "pillion.examples.load_example",
        lambda name, split: Rows.of([f"{name} {i}" for i in range(40)], ["a", "b"] * 20, name),
    )
    first = run("demo", *FAKE)
    assert first.code == 0, first.err
    for name in ("safety", "intent", "sentiment"):
        assert f"Trained {name}" in first.out
    assert "3 probes against the bare model" in first.out and "Next: pillion train" in first.out
    again = run("demo", *FAKE, "--json")
    assert set(again.json["probes"]) == {"safety", "intent", "sentiment"}
    assert len(again.json["answers"]) == 3
    left = {path.name for path in (tmp_path / "demo").glob("*/*")}
    assert left == set(again.json["probes"])
