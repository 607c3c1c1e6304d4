"""Runs the pages of documents: their commands as they are written, and what they have to print.

In a block `console` stand commands behind `$ `, with their output below; `...` in it stands for
anything, and numbers are not compared. A block whose first line is `# file: NAME` is that file.
A command whose output begins with `pillion: ` has to be refused. A block whose first line is
`# needs vLLM` is not run here. Ports 8000 to 8009 of 127.0.0.1 are free ones.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
SERVE = "pillion serve"
NOT_HERE = "# needs vLLM\n"


def steps(text: str) -> list[tuple[str, str]]:
    """Commands and their output, and files as (`file: NAME`, content), in order."""
    found: list[tuple[str, str]] = []
    for kind, block in BLOCKS.findall(text):
        first, _, content = block.partition("\n")
        if kind == "console" and not block.startswith(NOT_HERE):
            for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
                command, _, output = part.partition("\n")
                found.append((command, output))
        elif first.startswith("# file: "):
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


def run_page(page: Path, place: Path) -> list[str]:
    """Runs a page in a folder; its servers run from their command to the end of the page.

    Returns:
        The commands that were run.
    """
    text, ports = page.read_text(encoding="utf-8"), _free_ports()
    for known, port in ports.items():
        text = re.sub(rf"(127\.0\.0\.1:|--port ){known}\b", rf"\g<1>{port}", text)
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    done: list[str] = []
    with ExitStack() as running:
        for command, wanted in steps(text):
            if command.startswith("file: "):
                (place / command.removeprefix("file: ")).write_text(wanted, encoding="utf-8")
                continue
            if command.startswith(SERVE):
                given = re.search(r"--port (\d+)", command)
                port = given[1] if given else str(ports[8000])
                line = command if given else f"{command} --port {port}"
                url = f"http://127.0.0.1:{port}"
                said = running.enter_context(served(line, place, environment, url))
            else:
                said = _said(command, place, environment, 2 if refused(wanted) else 0)
            assert matches(wanted, said), (command, said)
            done.append(command)
    return done


def refused(wanted: str) -> bool:
    """Whether an output is that of a command that is refused."""
    return wanted.startswith("pillion: ")


def _said(command: str, place: Path, environment: dict[str, str], code: int) -> str:
    quiet = " --quiet" if command.startswith("pillion") else ""
    ran = subprocess.run(
        command + quiet,
        shell=True,
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == code, (command, ran.returncode, ran.stdout)
    return ran.stdout


def _free_ports() -> dict[int, int]:
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return {8000 + n: one.getsockname()[1] for n, one in enumerate(sockets)}
