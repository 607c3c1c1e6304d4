"""A server of an engine of another project, in processes of its own, started as a user would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, end: signal.Signals
) -> Generator[str]:
    """Address of a server that answers; it is ended behind.

    Args:
        command: that starts it; `--port` and a free one are put behind.
        environment: of its processes.
        folder: for its log.
        end: what ends its processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, end)
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
