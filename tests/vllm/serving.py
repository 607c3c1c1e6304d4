"""`vllm serve` in processes of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from riding import ProbedModel

from engine_server import started
from pillion.vllm import option_file


@contextmanager
def serving(
    ridden: ProbedModel, folder: Path, policy: Path | None = None, **others: Any
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
    command = [str(Path(sys.executable).parent / "vllm"), "serve", model]
    command += ["--config", str(folder / "pillion.yaml"), "--host", "127.0.0.1"]
    plugins = {"VLLM_PLUGINS": "pillion,pillion_cpu", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with started(command, os.environ | plugins, folder, signal.SIGTERM) as address:
        yield address
