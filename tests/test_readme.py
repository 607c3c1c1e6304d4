"""What the README shows runs as it is written, and says what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pillion import LanguageModel, Probe
from pillion.backends.fake import FakeBackend

README = Path(__file__).parents[1] / "README.md"


def block(kind: str) -> str:
    """The one block of a kind."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", README.read_text("utf-8"), re.M | re.S)
    return found


def example() -> str:
    return block("python")


def told(output: str) -> list[tuple[str, ...]]:
    """Of the demo's lines what no processor rounds away: prompts, probes, their first verdicts."""
    found: list[tuple[str, ...]] = []
    for line in output.splitlines():
        words = line.split()
        if line.startswith("> "):
            found.append((line,))
        elif words and words[0] in ("safety", "intent", "sentiment"):
            found.append(tuple(words[:2]))
        elif words and words[0] == "answers" and re.search(r"  unsafe [01]\.\d\d$", line):
            found.append(("answers",))
    return found


def test_the_example_is_short() -> None:
    assert len([line for line in example().splitlines() if line]) <= 10


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = LanguageModel(FakeBackend())
    monkeypatch.setattr(LanguageModel, "load", classmethod(lambda cls: model))
    monkeypatch.chdir(tmp_path)
    exec(compile(example(), str(README), "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 2
    assert Probe.load(tmp_path / "safety-probe", model).labels == ("safe", "unsafe")


@pytest.mark.model
def test_the_example_runs_on_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example(), str(README), "exec"), {})
    shown, said = block("text"), capsys.readouterr().out
    assert said.splitlines()[0] == shown.splitlines()[0]
    names = re.compile(r"'(\w+)': \d\.\d+")
    assert names.findall(said) == names.findall(shown) == ["safe", "unsafe"]


def test_the_demo_of_the_readme_is_one_that_the_demo_gives() -> None:
    from pillion.cli.demo import PROMPTS

    shown = told(block("console"))
    assert shown[0][0].removeprefix("> ") in PROMPTS
    assert [words[0] for words in shown[1:]] == ["safety", "intent", "sentiment", "answers"]


@pytest.mark.model
def test_the_demo_says_what_the_readme_shows() -> None:
    """Its probes stay in the user's cache, as for the user: only the first run trains them."""
    ran = subprocess.run(
        [sys.executable, "-m", "pillion", "demo", "--quiet"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    shown, said = told(block("console")), told(ran.stdout)
    place = said.index(shown[0])
    answers = next(n for n in range(place, len(said)) if said[n] == ("answers",))
    assert [*said[place : place + len(shown) - 1], said[answers]] == shown


def test_its_pictures_say_what_they_show() -> None:
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", README.read_text("utf-8"))
    assert len(pictures) == 2
    assert all(len(words) > 30 and (README.parent / file).exists() for words, file in pictures)
