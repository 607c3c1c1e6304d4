"""Rows that are conversations, from the command line: whose words a probe reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Run

from pillion.probe import Artefact


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def talk(n: int, words: str) -> list[dict[str, str]]:
    before = [{"role": "system", "content": "Be kind."}] if n % 2 else []
    return [*before, {"role": "user", "content": f"{words} {n}"}]


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    names = {"fine": "a lovely day", "poor": "an awful mess"}
    rows = [
        {"messages": talk(n, words), "label": label}
        for n in range(20)
        for label, words in names.items()
    ]
    return write(tmp_path / "talks.jsonl", rows)


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    names = {"fine": "a lovely day", "poor": "an awful mess"}
    rows = [
        {"prompt": f"How is it? {n}", "response": words, "label": label}
        for n in range(20)
        for label, words in names.items()
    ]
    return write(tmp_path / "answers.jsonl", rows)


def test_a_probe_of_conversations_reads_the_last_user(
    run: Run, tmp_path: Path, talks: Path
) -> None:
    out = tmp_path / "probe"
    assert run("train", "--data", talks, "--model", "fake", "--out", out).code == 0
    assert Artefact.load(out).card.scope == "last-user"
    ran = run("predict", "--probe", out, "--input", talks, "--model", "fake")
    assert ran.code == 0 and len(ran.lines) == 40
    assert run("evaluate", "--probe", out, "--data", talks, "--model", "fake").code == 0


def test_a_probe_of_answers_reads_the_response(run: Run, tmp_path: Path, answers: Path) -> None:
    out = tmp_path / "probe"
    assert run("train", "--data", answers, "--model", "fake", "--out", out).code == 0
    assert Artefact.load(out).card.scope == "response"
    ran = run("predict", "--probe", out, "--input", answers, "--model", "fake")
    assert ran.code == 0 and len(ran.lines) == 40


def test_raw_texts_are_read_as_a_whole(run: Run, tmp_path: Path, data: Path) -> None:
    out = tmp_path / "probe"
    words = ("--data", data, "--model", "fake", "--out", out, "--template", "raw")
    assert run("train", *words).code == 0
    assert Artefact.load(out).card.scope == "all"
    ran = run("train", *words, "--scope", "user")
    assert ran.code == 2 and "a text without turns has no words" in ran.err


def test_a_row_without_the_scope_is_named(run: Run, tmp_path: Path, talks: Path) -> None:
    ran = run(
        *("train", "--data", talks, "--model", "fake", "--out", tmp_path / "p"),
        *("--scope", "tool"),
    )
    assert ran.code == 2
    assert "Row 1: no turn of the tool has words" in ran.err


def test_kept_states_of_all_tokens_train_a_probe_of_any_scope(
    run: Run, tmp_path: Path, talks: Path
) -> None:
    cache = tmp_path / "states"
    how = ("--data", talks, "--model", "fake")
    assert run("extract", *how, "--out", cache, "--scope", "all").code == 0
    before = sorted(path.name for path in (cache / "train").iterdir())
    out = tmp_path / "probe"
    assert run("train", *how, "--out", out, "--cache", cache, "--scope", "user").code == 0
    assert Artefact.load(out).card.scope == "user"
    assert sorted(path.name for path in (cache / "train").iterdir()) == before


def test_layers_are_studied_of_the_scope(run: Run, talks: Path) -> None:
    ran = run("layers", "--data", talks, "--model", "fake", "--json", "--scope", "user")
    assert ran.code == 0
