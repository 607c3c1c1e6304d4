"""`pillion doctor`: is this machine ready."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from importlib import metadata
from typing import Annotated, Any

import typer

from pillion.cli.app import app, out, print_json
from pillion.cli.options import Json

PACKAGES = ("pillion", "torch", "transformers", "tokenizers", "safetensors", "scikit-learn")


@app.command()
def doctor(
    model: Annotated[
        str | None,
        typer.Option(help="Load this model, too: a folder, a GGUF file, a hub name, or embedded."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that this machine is ready.

    Python, packages, memory, disk, accelerator, embedded model; exit code 1 if it is not ready.
    With --model also whether that model can be loaded and read, and what it is; the embedded one
    is then not needed.
    """
    facts = _facts() | ({} if model is None else _model_facts(model))
    ready = model is not None or bool(facts["embedded_model"])
    if as_json:
        print_json({**facts, "ready": ready})
    else:
        for name, value in facts.items():
            out.print(f"{name:<16} {value}")
        if facts.get("chat_template") is False:
            out.print("A base model: texts are read as they are (template raw).")
        out.print("Ready." if ready else "Not ready: run `pillion setup`.")
    if not ready:
        sys.exit(1)


def _facts() -> dict[str, Any]:
    import torch

    from pillion.backends.embedded import is_embedded_model_ready

    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "embedded_model": is_embedded_model_ready(),
    }


def _model_facts(name: str) -> dict[str, Any]:
    """What a model is, once it was loaded, its blocks were found and it has said a token.

    Raises:
        ConfigError: it cannot be loaded or read.
    """
    from pillion.runtime import LanguageModel

    began = time.perf_counter()
    model = LanguageModel.load(name)
    seconds, found = time.perf_counter() - began, model.backend.identity
    template = "chat" if found.template_sha256 else "raw"
    model.generate("Hello.", max_tokens=1, template=template)
    return {
        "model": found.name,
        "model_seconds": round(seconds, 1),
        "layers": f"0 to {found.num_layers}",
        "width": found.dim,
        "context_tokens": found.context_tokens,
        "dtype": found.dtype,
        "chat_template": bool(found.template_sha256),
        "routers": found.num_routers,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
