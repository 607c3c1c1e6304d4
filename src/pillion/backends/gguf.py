"""Models in GGUF files: converted once into the user's cache, as a folder that transformers loads.

Promises a folder that is written atomically, checked at every start, and made again when it is
broken or its file has changed. Does not know where a file came from, nor how a model is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import Field

from pillion.core.extras import require
from pillion.core.strict import Strict
from pillion.errors import ConfigError, StorageError

Converter = Callable[[Path, Path], None]
"""Writes the model in a GGUF file (first path) into an empty folder (second path)."""

_RECORD_NAME = "conversion.json"
_FORMAT = 1  # raise it when convert_gguf writes something else: older conversions are then redone
_EPS_DIGITS = 6  # GGUF keeps it in float32 and gives 9.999999747378752e-06
_RECORDED_PACKAGES = ("torch", "transformers", "gguf", "safetensors")
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_NAMED_BYTES = 2**20
"""Bytes at the start of a file, its metadata, and at its end, of its last weights, that the name of
its folder is made from."""


class _Source(Strict):
    name: str
    size_bytes: int
    sha256: str
    modified_ns: int | None = None


class _FileMark(Strict):
    size_bytes: int
    modified_ns: int
    sha256: str


class _Conversion(Strict):
    """What `conversion.json` holds: enough to tell a whole conversion from a broken one."""

    format: int
    source: _Source
    versions: dict[str, str]
    files: dict[str, _FileMark] = Field(min_length=1)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes the model in `gguf` as bf16 safetensors, tokenizer and chat template into `folder`.

    Takes about half a minute; stderr is silent meanwhile, for the libraries draw progress bars.

    Raises:
        ConfigError: the package that reads such files is not installed.
        OSError: the file cannot be read or `folder` not be written.
    """
    require("gguf", "A GGUF file")
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
        if eps := getattr(model.config, "rms_norm_eps", None):
            model.config.rms_norm_eps = float(f"{eps:.{_EPS_DIGITS}g}")
        tokenizer.model_max_length = model.config.max_position_embeddings  # GGUF gives none
        tokenizer.save_pretrained(folder)
        try:
            model.save_pretrained(folder)
        except SafetensorError as error:  # a full disk arrives here as this, not as an OSError
            raise OSError(str(error)) from error


def find_gguf(model: str) -> Path | None:
    """The GGUF file that a model's name means: a path to one, or a folder with one and no config.

    Raises:
        ConfigError: a file that is missing or one part of several, or a folder with several.
    """
    path = Path(model)
    if path.is_dir() and not (path / "config.json").exists():
        found = sorted(path.glob("*.gguf"))
    else:
        found = [path] if path.suffix == ".gguf" else []
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ConfigError(f"{model} holds several GGUF files ({names}); give the path of one.")
    if found and not found[0].is_file():
        raise ConfigError(f"{model} does not exist; give the path of a GGUF file.")
    if found and _PART.search(found[0].stem):
        raise ConfigError(
            f"{found[0].name} is one part of several; join them (`llama-gguf-split --merge`) and "
            "give the whole file."
        )
    return found[0] if found else None


def gguf_folder(gguf: Path) -> Path:
    """Where the conversion of a file lies: below the cache, named by the file and both its ends.

    Two models that were tuned from one have the same metadata, and files of the same size.
    """
    size = gguf.stat().st_size
    with gguf.open("rb") as file:
        digest = hashlib.sha256(file.read(_NAMED_BYTES) + str(size).encode())
        file.seek(max(0, size - _NAMED_BYTES))
        digest.update(file.read())
    return cache_root() / "models" / f"{gguf.stem}-{digest.hexdigest()[:12]}"


def converted(gguf: Path, folder: Path, convert: Converter = convert_gguf) -> Path:
    """The folder, after converting the file into it unless it holds that already.

    Processes that start together convert once: the others wait.

    Args:
        gguf: the file.
        folder: a transformers model in bf16 safetensors.
        convert: the step that writes the folder; tests give a fake one.

    Raises:
        StorageError: the folder cannot be written, or its disk is full.
    """
    if is_converted(folder, gguf):
        return folder
    with _storage_errors(folder, gguf):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_converted(folder, gguf):  # another process may have done it while we waited
                _replace(folder, gguf, convert)
    return folder


def is_converted(folder: Path, gguf: Path) -> bool:
    """Whether `folder` holds the conversion of `gguf`, with every file as it was written."""
    try:
        record = _Conversion.model_validate_json((folder / _RECORD_NAME).read_bytes())
        if record.format != _FORMAT or not _is_source(gguf, record.source):
            return False
        return all(_is_unchanged(folder / name, mark) for name, mark in record.files.items())
    except (OSError, ValueError):  # a missing or unreadable file, a record that is cut or foreign
        return False


def cache_root() -> Path:
    """`$PILLION_CACHE`, else `$XDG_CACHE_HOME/pillion`, else `~/.cache/pillion`."""
    if own := os.environ.get("PILLION_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "pillion"


@contextlib.contextmanager
def _storage_errors(folder: Path, gguf: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        # Weights of four bits become weights of sixteen.
        needed = f"{4 * gguf.stat().st_size / 2**20:,.0f} MB" if gguf.is_file() else "some room"
        raise StorageError(
            f"{gguf.name} could not be converted into {folder} ({error}); it needs {needed} there:"
            " free some space, or set PILLION_CACHE to a folder that can be written."
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
    stat = gguf.stat()
    source = _Source(
        name=gguf.name,
        size_bytes=stat.st_size,
        sha256=_sha256(gguf),
        modified_ns=stat.st_mtime_ns,
    )
    record = _Conversion(
        format=_FORMAT,
        source=source,
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


def _is_source(gguf: Path, source: _Source) -> bool:
    stat = gguf.stat()
    if (source.name, source.size_bytes) != (gguf.name, stat.st_size):
        return False
    return source.modified_ns in (None, stat.st_mtime_ns) or _sha256(gguf) == source.sha256


def _is_unchanged(path: Path, mark: _FileMark) -> bool:
    stat = path.stat()
    if stat.st_size != mark.size_bytes:
        return False
    # Same size and time: trusted, so that a start costs milliseconds. A copied cache is hashed.
    return stat.st_mtime_ns == mark.modified_ns or _sha256(path) == mark.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
