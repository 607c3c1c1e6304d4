"""`pillion sglang` in processes of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sglang_ridden import Ridden

CPU = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
    *("--chunked-prefill-size", "64", "--max-total-tokens", "4096"),
)
"""SGLang on a CPU without kernels of its own; longer prompts are read in chunks."""


def command(ridden: Ridden, options: Sequence[str]) -> list[str]:
    """As a user would start it."""
    probes = [part for folder in ridden.folders for part in ("--probe", str(folder))]
    pillion = str(Path(sys.executable).parent / "pillion")
    return [pillion, "sglang", str(ridden.folder), *probes, "--dtype", "float32", *CPU, *options]


def environment(**others: str) -> dict[str, str]:
    """Of SGLang on a CPU."""
    return {**os.environ, "SGLANG_USE_CPU_ENGINE": "1", **others}


@contextmanager
def serving(
    ridden: Ridden,
    folder: Path,
    *options: str,
    variables: Mapping[str, str] | None = None,
) -> Generator[str]:
    """Address of a server, started as a user would.

    Args:
        ridden: model and probes.
        folder: for its log.
        options: more of SGLang's, which count before those of `CPU`.
        variables: of its environment.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = command(ridden, (*options, "--port", str(port)))
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            started,
            env=environment(**(variables or {})),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(60)


def wait_for(address: str, server: subprocess.Popen[Any], log: Path) -> None:
    """Returns as soon as the server answers; five minutes at most."""
    import httpx

    for _ in range(600):
        assert server.poll() is None, log.read_text(encoding="utf-8")[-3000:]
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text(encoding="utf-8")[-3000:])


def refusal(ridden: Ridden, *options: str, **variables: str) -> str:
    """What a server says that does not start; raises if it does."""
    done = subprocess.run(
        command(ridden, options),
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-3000:]
    return done.stderr
