"""The program as its user meets it: words in, exit code, output and messages out."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import Ran, Refused, Run, two_classes, write_rows

from pillion.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the program in this process."""

    def pillion(*words: str | Path) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert isinstance(stop.value.code, int)
        return Ran(stop.value.code, *capsys.readouterr())

    return pillion


@pytest.fixture
def refused(run: Run) -> Refused:
    """Runs words that the program has to refuse in one sentence; gives the sentence."""

    def refuse(*words: str | Path, code: int = 2) -> str:
        ran = run(*words)
        assert ran.code == code, ran
        assert ran.out == ""
        *notes, sentence = ran.err.splitlines()
        usual = ("B on disk.", "a probe hardly learns: ", "Only ", " texts have the words of ")
        assert all(any(words in note for words in usual) for note in notes), ran.err
        assert sentence.startswith("pillion: ")
        assert "Traceback" not in sentence and "Unexpected" not in sentence
        return sentence

    return refuse


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty rows of two classes."""
    return write_rows(tmp_path / "rows.jsonl", two_classes(40))


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe that `pillion train` has made, of the labels fine and poor; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    rows = write_rows(folder / "rows.jsonl", two_classes(40))
    with pytest.raises(SystemExit) as stop:
        words = ["--data", str(rows), "--model", "fake", "--out", str(folder / "mood")]
        # The fake model's states are narrow: a rate for 576 components moves them too little.
        main(["train", *words, "--lr", "0.03"])
    assert stop.value.code == 0
    return folder / "mood"
