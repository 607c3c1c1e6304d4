"""The program's frame: help, version, exit codes, messages, what becomes of its output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from program import Refused, Run, write_rows

from pillion.cli.app import VERBS, json_line
from pillion.errors import StorageError

PROGRAM = [sys.executable, "-m", "pillion"]


def test_alone_it_prints_its_help(run: Run) -> None:
    ran = run()
    assert ran.code == 0 and ran.err == ""
    assert ran.out == run("--help").out == run("-h").out
    for words in ("--version", "--debug", "pillion VERB --help"):
        assert words in ran.out


def test_it_lists_its_verbs_in_the_order_of_use(run: Run) -> None:
    _, _, commands = run().out.partition("Commands:\n")
    lines = commands.splitlines()
    assert [line.split()[0] for line in lines] == list(VERBS)
    # No sentence is cut off at the edge of the terminal.
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(run: Run, verb: str) -> None:
    ran = run(verb, "--help")
    assert ran.code == 0 and f"Usage: pillion {verb}" in ran.out
    # The verbs of a group have it each.
    assert "--json" in ran.out or "Commands:" in ran.out
    for line in ran.out.splitlines():
        assert "Raises:" not in line and "Args:" not in line
        if line.lstrip().startswith("--"):  # Python's types say less than a name of the value
            assert "<list" not in line


@pytest.mark.parametrize("verb", ["train", "predict", "evaluate", "extract", "generate", "demo"])
def test_the_embedded_model_is_the_default(run: Run, verb: str) -> None:
    shown = " ".join(run(verb, "--help").out.split())
    assert "[default: embedded]" in shown


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").out.startswith("pillion 0.")


@pytest.mark.parametrize(
    "words",
    [
        ("layers", "--data", "a.csv", "--data=b.csv"),
        ("explain", "--text", "a", "--text", "b", "--probe", "x"),
        ("evaluate", "--probe", "a", "--probe", "b", "--data", "a.csv"),
    ],
    ids=lambda words: words[0],
)
def test_what_is_read_is_given_once(refused: Refused, words: tuple[str, ...]) -> None:
    """The bug: the last of several was read, and the others were dropped in silence."""
    message = refused(*words)
    assert "is given 2 times, this verb reads one; give it once." in message


def test_of_other_options_the_last_value_wins(run: Run, tmp_path: Path) -> None:
    words = ("extract", "--model", "embedded", "--model", "fake", "--json", "--out", tmp_path / "x")
    assert run(*words, "--data", write_rows(tmp_path / "t.jsonl", [{"text": "a"}])).code == 0


def test_a_traceback_is_shown_where_asked(run: Run, tmp_path: Path) -> None:
    plain = run("inspect", tmp_path)
    for words in (("inspect", tmp_path, "--debug"), ("--debug", "inspect", tmp_path)):
        ran = run(*words)
        assert ran.code == plain.code == 2
        assert ran.err.startswith("Traceback") and ran.err.endswith(plain.err)
    # Behind `--` it is the user's own word.
    assert run("generate", "--model", "fake", "--max-tokens", "1", "--", "--debug").code == 0


def test_what_was_not_foreseen_is_one_sentence_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("pillion.runtime.LanguageModel.load", fail)
    ran = run("generate", "hi")
    assert ran.code == 1 and ran.out == ""
    (line,) = ran.err.splitlines()
    assert "Unexpected RuntimeError: first line second line" in line and "--debug" in line


def test_ctrl_c_anywhere_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pillion.runtime.LanguageModel.load", interrupt)
    ran = run("generate", "hi")
    assert (ran.code, ran.out, ran.err) == (1, "", "pillion: Interrupted.\n")


def test_json_stays_on_one_line_for_every_reader() -> None:
    line = json_line({"a\u2028b": "c\u2029d\x85e\nf"})
    assert line.splitlines() == [line]
    assert line == '{"a\\u2028b": "c\\u2029d\\u0085e\\nf"}'


def test_doctor_says_whether_the_machine_is_ready(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = "pillion.backends.embedded.is_embedded_model_ready"
    monkeypatch.setattr(ready, lambda: True)
    ran = run("doctor", "--json")
    assert ran.code == 0 and ran.json["ready"] is True and ran.json["torch"]
    monkeypatch.setattr(ready, lambda: False)
    ran = run("doctor")
    assert ran.code == 1 and "Not ready: run `pillion setup`." in ran.out


def test_setup_says_where_the_model_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    install = "pillion.backends.embedded.install_embedded_model"
    monkeypatch.setattr(install, lambda: Path("/models/it"))
    assert run("setup", "--json").json == {"model": "/models/it"}
    assert "ready in /models/it" in run("setup").out


def test_setup_that_fails_says_why(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StorageError("No room.")

    monkeypatch.setattr("pillion.backends.embedded.install_embedded_model", fail)
    assert refused("setup", "--json", code=1) == "pillion: No room."


def test_a_reader_that_goes_away_is_no_error_message(probe: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "x.jsonl", [{"text": f"row {i}"} for i in range(1500)])
    words = ["predict", "--probe", str(probe), "--input", str(data), "--model", "fake"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*PROGRAM, *words], **pipes) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_one_sentence() -> None:
    with open("/dev/full", "wb") as full:
        child = subprocess.run(
            [*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert child.returncode == 1
    (line,) = child.stderr.decode().splitlines()
    assert line.startswith("pillion: No space is left where the output goes")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("pillion ca", ["calibrate"]),
        ("pillion train --multi", ["--multi-label"]),
        ("pillion train --template ", ["raw", "chat"]),
    ],
)
def test_a_shell_completes_verbs_options_and_choices(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: str, offered: list[str]
) -> None:
    monkeypatch.setenv("_PILLION_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    ran = run()
    assert ran.code == 0 and sorted(ran.out.split()) == sorted(offered)


def test_completion_is_installed_by_an_option_of_the_program(run: Run) -> None:
    assert "--install-completion" in run("--help").out
