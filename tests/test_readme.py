"""The Python example of the README runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pillion import LanguageModel, Probe
from pillion.backends.fake import FakeBackend

README = Path(__file__).parents[1] / "README.md"


def example() -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    return block


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
    assert capsys.readouterr().out.splitlines()[0].startswith("['")
