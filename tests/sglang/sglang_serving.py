"""`pillion sglang` in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sglang_probed import ProbedModel

from engine_server import started

CPU = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
    *("--chunked-prefill-size", "64", "--max-total-tokens", "4096"),
)
"""SGLang on a CPU without kernels of its own; longer prompts are read in chunks."""


def command(ridden: ProbedModel, options: Sequence[str]) -> list[str]:
    """As a user would start it."""
    probes = [part for folder in ridden.folders for part in ("--probe", str(folder))]
    pillion = str(Path(sys.executable).parent / "pillion")
    return [pillion, "sglang", str(ridden.folder), *probes, "--dtype", "float32", *CPU, *options]


def environment(**others: str) -> dict[str, str]:
    """Of SGLang on a CPU."""
    return {**os.environ, "SGLANG_USE_CPU_ENGINE": "1", **others}


@contextmanager
def serving(
    ridden: ProbedModel,
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
    ways = environment(**(variables or {}))
    with started(command(ridden, options), ways, folder, signal.SIGKILL) as address:
        yield address


def refusal(ridden: ProbedModel, *options: str, **variables: str) -> str:
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
