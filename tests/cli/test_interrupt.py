"""Ctrl-C during training: what is left is enough to go on, to the bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from program import Run, two_classes, write_rows

from pillion.backends.fake import FakeBackend
from pillion.cli import main
from pillion.cli.progress import Bar
from pillion.errors import StorageError
from pillion.probe import Artefact

# The real program; after the second epoch it waits where a slower machine would be computing.
PROGRAM = """
import signal, sys, time
from pillion.cli import main
from pillion.cli.progress import Bar
from pillion.train import run as training_run

save = training_run.save_checkpoint

def save_and_wait(folder, run, epoch, learners):
    save(folder, run, epoch, learners)
    if epoch == 2:
        print("waiting", flush=True)
        time.sleep(600)

training_run.save_checkpoint = save_and_wait
# A shell that runs the tests in the background has its children ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
main(sys.argv[1:])
"""


def command(data: Path, out: Path) -> list[str]:
    words = ["train", "--data", str(data), "--model", "fake", "--out", str(out)]
    return [
        *words,
        "--probe",
        "gate",
        "--probe",
        "mha",
        "--lr",
        "0.0005",
        "--batch-size",
        "4",
        "--epochs",
        "5",
    ]


def code_of(words: list[str]) -> int:
    """The exit code of the program in a process of its own, as the one that was stopped had.

    Bits depend on what a process has set before, such as its threads.
    """
    program = [sys.executable, "-m", "pillion", *words]
    return subprocess.run(program, capture_output=True, timeout=300, check=False).returncode


def test_the_same_command_finishes_what_ctrl_c_has_stopped(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_classes(60))
    out, work = tmp_path / "stopped", tmp_path / ".stopped.work"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command(data, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        messages = child.stderr.read().splitlines()
    assert child.returncode == 1
    assert messages[-1] == ("pillion: Training was interrupted; the same command resumes it.")
    assert not any("Traceback" in line for line in messages)
    assert work.is_dir() and not out.exists()

    assert code_of(command(data, out)) == 0
    assert not work.exists()
    assert code_of(command(data, tmp_path / "straight")) == 0
    resumed, straight = (Artefact.load(tmp_path / name).card for name in ("stopped", "straight"))
    assert 2 < resumed.training["best_epoch"] == straight.training["best_epoch"]
    assert resumed.weights_sha256 == straight.weights_sha256
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "stopped", "straight"}


def interrupted(words: list[str], stage: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs with a Ctrl-C in the given stage; gives what is said last."""

    def interrupt(_: object, now: str, *__: object) -> None:
        if now == stage:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Bar, "__call__", interrupt)
        main(words)
    assert stop.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_a_probe_that_cannot_be_saved_is_not_learnt_again(
    run: Run, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States and training were deleted where a full disk refused the probe that they gave."""
    out, words = tmp_path / "p", ("train", "--data", data, "--model", "fake", "--out")
    full = StorageError("Probe p could not be saved (No space left on device); make room.")
    with monkeypatch.context() as now:
        now.setattr(Artefact, "save", Mock(side_effect=full))
        failed = run(*words, out)
    assert failed.code == 1 and "make room. The work is kept: repeat the command" in failed.err
    assert (tmp_path / ".p.work" / "checkpoint").exists() and not out.exists()
    with monkeypatch.context() as now:
        now.setattr(FakeBackend, "forward", Mock(side_effect=AssertionError("run again")))
        now.setattr("pillion.fit.with_canaries", lambda model, artefacts: artefacts)
        assert run(*words, out).code == 0
    assert not (tmp_path / ".p.work").exists()
    assert run(*words, tmp_path / "other").code == 0
    weights = [(tmp_path / name / "probe.safetensors").read_bytes() for name in ("p", "other")]
    assert weights[0] == weights[1]


def test_extraction_is_resumed_too(
    run: Run, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mood"
    assert "Extraction was interrupted" in interrupted(command(data, out), "extract", capsys)
    assert (tmp_path / ".mood.work" / "train").is_dir()
    assert run(*command(data, out)).code == 0
    assert not (tmp_path / ".mood.work").exists()


def test_another_command_is_told_of_the_unfinished_one_and_leaves_it_alone(
    run: Run, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cache = tmp_path / "mood", ["--cache", str(tmp_path / "states")]
    words = [*command(data, out), *cache]
    calls = 0

    def interrupt(_: object, now: str, *__: object) -> None:
        nonlocal calls
        calls += now == "train"
        if calls == 20:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bar, "__call__", interrupt)
        assert run(*words).code == 1
    left = sorted((tmp_path / ".mood.work").rglob("*"))
    assert any(path.name == "training.safetensors" for path in left)
    ran = run(*words, "--epochs", "2")
    assert ran.code == 2 and "repeat its command to finish it" in ran.err
    assert sorted((tmp_path / ".mood.work").rglob("*")) == left
    assert run(*words).code == 0
    assert not (tmp_path / ".mood.work").exists()
