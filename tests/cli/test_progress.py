"""Where a long run stands, told without a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import Run, write_rows

from pillion.cli import progress
from pillion.cli.app import QUIET


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        """In the place of `time.monotonic`."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "monotonic", made)
    return made


def test_a_line_comes_every_thirty_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress_bar() as bar:
        for second in range(0, 100, 5):
            clock.now = float(second)
            bar("extract", second * 10, 2000, metric=0.5 if second >= 60 else None)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "extract 15 %",
        "extract 30 %",
        "extract 45 %",
    ]
    assert "validation" not in lines[0] and all("validation 0.500" in line for line in lines[1:])
    assert all("tokens/s" in line and line.endswith(" left") for line in lines)


def test_what_is_done_soon_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar() as bar:
        for second in range(29):
            clock.now = float(second)
            bar("train", second, 29)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (29.0, "29 s"), (95.0, "2 min"), (7300.0, "2.0 h")], ids=str
)
def test_time_left_is_told_in_its_unit(seconds: float, said: str) -> None:
    assert progress._span(seconds) == said


def test_quiet_goes_with_any_verb(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    data = write_rows(tmp_path / "t.jsonl", [{"text": "a day"}, {"text": "a night"}])
    words = ("extract", "--data", data, "--model", "fake", "--json", "--out")
    assert "extract 100 %" in run(*words, tmp_path / "one").err
    for place, order in enumerate((("--quiet", *words), (*words[:3], "--quiet", *words[3:]))):
        assert "%" not in run(*order, tmp_path / f"quiet-{place}").err
    assert "extract 100 %" in run(*words, tmp_path / "two").err
    assert QUIET.get() is False
