"""The tutorial is run as it is written; `...` in its output stands for anything."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
SERVE = "pillion serve"


def steps(text: str) -> list[tuple[str, str]]:
    """Commands and their output, and files as (`file NAME`, content), in order."""
    found: list[tuple[str, str]] = []
    for kind, block in BLOCKS.findall(text):
        if kind == "console":
            for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
                command, _, output = part.partition("\n")
                found.append((command, output))
        else:
            first, _, content = block.partition("\n")
            found.append((first.removeprefix("# "), content))
    return found


def matches(wanted: str, got: str) -> bool:
    """Whether an output is the wanted one, but for its numbers and what `...` stands for."""
    parts = [re.escape(_plain(part)) for part in wanted.split("...")]
    return re.fullmatch(r".*?".join(parts).replace(r"\ ", " "), _plain(got), re.S) is not None


def _plain(text: str) -> str:
    return re.sub(r"\d[\d,]*(\.\d+)?", "0", " ".join(text.split()))


@contextmanager
def served(command: str, place: Path, environment: dict[str, str], url: str) -> Generator[str]:
    """A running server; gives the line in which it says where it is."""
    process = subprocess.Popen(
        shlex.split(command),
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the server ended before it served"
        until = time.monotonic() + 60
        while time.monotonic() < until and httpx.get(f"{url}/ready").status_code != 200:
            time.sleep(0.1)
        yield line
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_numbers_and_dots_may_be_anything_and_words_may_not() -> None:
    assert matches("f1 0.5\n...\nSaved in x.", "f1   0.75\nmore\n  words\nSaved in x.")
    assert not matches("f1 0.5\n...\nSaved in x.", "f1 0.75\nSaved in y.")
    assert not matches("f1 0.5", "f2 0.5 and more")


@pytest.mark.model
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
def test_every_command_prints_what_the_tutorial_says(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    text = TUTORIAL.read_text(encoding="utf-8").replace("127.0.0.1:8000", f"127.0.0.1:{port}")

    def check(todo: list[tuple[str, str]]) -> None:
        for number, (command, wanted) in enumerate(todo):
            if command.startswith("file: "):
                (tmp_path / command.removeprefix("file: ")).write_text(wanted, encoding="utf-8")
            elif command.startswith(SERVE):
                line = f"{command} --port {port}"
                with served(line, tmp_path, environment, f"http://127.0.0.1:{port}") as said:
                    assert matches(wanted, said), said
                    check(todo[number + 1 :])
                return
            else:
                quiet = " --quiet" if command.startswith("pillion") else ""
                ran = subprocess.run(
                    command + quiet,
                    shell=True,
                    cwd=tmp_path,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                assert ran.returncode == 0 and matches(wanted, ran.stdout), (command, ran.stdout)

    todo = steps(text)
    assert sum(command.startswith("pillion") for command, _ in todo) >= 8
    check(todo)
