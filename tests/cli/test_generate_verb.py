"""`pillion generate` and `pillion demo`, on the shipped engine without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import Run
from rich.cells import cell_len

from pillion.backends.fake import FakeBackend
from pillion.cli import streaming
from pillion.data import Rows
from tiny_models import make_artefact

FAKE = ("--model", "fake")


@pytest.fixture
def reader(run: Run, data: Path, tmp_path: Path) -> Path:
    """A probe of every token, with verdicts on prompt and answer."""
    out = tmp_path / "reader" / "mood"
    ran = run("train", "--data", data, *FAKE, "--out", out, "--scope", "all", "--epochs", "4")
    assert ran.code == 0
    return out


def test_an_answer_comes_with_verdicts_of_prompt_and_response(run: Run, reader: Path) -> None:
    ran = run("generate", "hi", "--probe", reader, *FAKE, "--max-tokens", "9", "--json")
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


def test_a_score_stands_under_every_character(run: Run, reader: Path) -> None:
    shown = run("generate", "hi", "--probe", reader, *FAKE, "--max-tokens", "120").out
    head, *lines = shown.splitlines()
    assert head.split()[0] == "mood"
    texts, scores = lines[::2], lines[1::2]
    assert len(texts) == len(scores) >= 1
    for text, score in zip(texts, scores, strict=True):
        bars, _, label = score[13:].rpartition("  ")
        assert len(bars) == cell_len(text[13:])
        assert label.split()[0] in {"fine", "poor"}


def test_control_codes_of_an_answer_do_not_reach_the_terminal(
    run: Run, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "decode", lambda *_: "\x1b[2Jboo\r\n\x07")
    ran = run("generate", "hi", "--probe", reader, *FAKE, "--max-tokens", "4")
    assert ran.code == 0
    assert not set(ran.out) & set("\x1b\r\x07")
    assert streaming.STEPS[0] == " "


def test_a_probe_that_has_nothing_to_read_says_so_beside_the_others(
    run: Run, tmp_path: Path
) -> None:
    """It was left out without a word, in JSON too, and a long name moved bars from their tokens."""
    folders = [tmp_path / "of-what-tools-say", tmp_path / "asked"]
    for folder, scope in zip(folders, ("tool", "last-user"), strict=True):
        identity = FakeBackend().identity
        make_artefact(folder.name, identity, template="chat", scope=scope).save(folder)
    probes = [word for folder in folders for word in ("--probe", folder)]
    words = ("generate", "hi", *probes, *FAKE, "--max-tokens", "3")
    first, second = run(*words).out.splitlines()[:2]
    why = "no turn of the tool has words, which the scope 'tool' reads"
    assert first == f"  of-what-tools-say no verdict: {why}"
    assert second.startswith(f"  {'asked':<17} ") and " yes " in second
    told = run(*words, "--json").json["prompt"]
    nothing = {"label": None, "probs": None, "threshold": None, "reason": why}
    assert told["of-what-tools-say"] == nothing and "reason" not in told["asked"]


def test_the_token_that_no_probe_read_has_no_bar(run: Run, reader: Path) -> None:
    """The last token of an answer at its limit had the bar of those before it."""
    shown = run("generate", "hi", "--probe", reader, *FAKE, "--max-tokens", "4").out
    _, text, score = shown.splitlines()
    bars = score[13 : 13 + cell_len(text[13:])]
    assert len(bars) == 4 and bars[-1] == " " and " " not in bars[:-1]


def test_a_conversation_is_answered_and_its_last_user_judged(
    run: Run, probe: Path, tmp_path: Path
) -> None:
    talk = [
        {"role": "user", "content": "an awful mess"},
        {"role": "assistant", "content": "Oh."},
        {"role": "user", "content": "a lovely day"},
    ]
    file = tmp_path / "talk.json"
    file.write_text(json.dumps(talk))
    words = ("--probe", probe, *FAKE, "--max-tokens", "2", "--json")
    whole = run("generate", "--messages", file, *words)
    assert whole.code == 0 and whole.json["response"] == {}
    file.write_text(json.dumps({"messages": talk[:2]}))
    parts = run("generate", "a lovely day", "--messages", file, *words)
    assert parts.json["prompt"] == whole.json["prompt"]
    other = run("generate", "a lovely day", "--messages", file, "--system", "Be kind.", *words)
    assert other.json["prompt"]["mood"]["probs"] != whole.json["prompt"]["mood"]["probs"]


@pytest.mark.parametrize(
    ("words", "content", "why"),
    [
        ((), None, "Got nothing to answer"),
        (("hi", "--system", " "), None, "--system is empty"),
        (("--messages", "{}"), "no json", "is not JSON"),
        (("--messages", "{}"), "[]", "has no turns"),
        (("--messages", "{}"), '[{"role": "boss", "content": "x"}]', "unknown role 'boss'"),
        (
            ("--messages", "{}", "--system", "x"),
            '[{"role": "system", "content": "y"}, {"role": "user", "content": "z"}]',
            "Both --system and --messages",
        ),
        (
            ("--messages", "{}"),
            '[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]',
            "ends with an answer",
        ),
    ],
)
def test_turns_that_cannot_be_answered_are_refused(
    run: Run, tmp_path: Path, words: tuple[str, ...], content: str | None, why: str
) -> None:
    file = tmp_path / "talk.json"
    file.write_text(content or "")
    ran = run("generate", *(word.format(file) if word == "{}" else word for word in words), *FAKE)
    assert ran.code == 2 and why in ran.err


def test_a_cache_that_cannot_be_made_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was an unexpected NotADirectoryError, with no word of where it comes from."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("PILLION_CACHE", str(tmp_path / "file"))
    ran = run("demo", *FAKE)
    assert ran.code == 1 and "name a folder that you may write in by PILLION_CACHE" in ran.err


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
    for name in ("safety", "intent", "sentiment", "answers"):
        assert f"Trained {name}" in first.out
    assert "4 probes against the bare model" in first.out and "Next: pillion train" in first.out
    again = run("demo", *FAKE, "--json")
    assert set(again.json["probes"]) == {"safety", "intent", "sentiment", "answers"}
    assert len(again.json["answers"]) == 3
    left = {path.name for path in (tmp_path / "demo").glob("*/*")}
    assert left == set(again.json["probes"])
