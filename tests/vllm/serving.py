"""`vllm serve` in processes of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from riding import Ridden

from pillion.vllm import option_file


@contextmanager
def serving(
    ridden: Ridden, folder: Path, policy: Path | None = None, **others: Any
) -> Generator[str]:
    """Address of a server in processes of its own, started as a user would.

    Args:
        ridden: model and probes.
        folder: for its options and its log.
        policy: file of policies that it follows.
        others: more options of vLLM.
    """
    chosen = ridden.options(http=True, policy=policy, **others)
    model = chosen.pop("model")
    chosen |= {"served_model_name": "tiny", "enable_prompt_tokens_details": True}
    del chosen["disable_log_stats"]
    (folder / "pillion.yaml").write_text(option_file(chosen), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "vllm", "serve", model, "--config"]
    command += [folder / "pillion.yaml", "--host", "127.0.0.1", "--port", str(port)]
    plugins = {"VLLM_PLUGINS": "pillion,pillion_cpu", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [str(part) for part in command],
            env=os.environ | plugins,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
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
            time.sleep(0.5)
    raise AssertionError(log.read_text(encoding="utf-8")[-3000:])
