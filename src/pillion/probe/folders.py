"""The folder of a probe on disk: whole or not there, even if a process is killed while it saves.

A folder cannot take the place of a full one in one step. So the old probe is set aside under a name
that reading knows (`.NAME.old`), and removed when the new one is in its place. Does not know what
the files hold.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pillion.core.files import sync_folder
from pillion.errors import ArtefactError, StorageError

CARD_NAME = "card.json"
WEIGHTS_NAME = "probe.safetensors"


def replace_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Puts a probe's files in the place of those that lie there, or nothing if it fails.

    Raises:
        ArtefactError: what lies there is no probe.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent, fcntl.LOCK_EX) as alone:
        _refuse_foreign(target)
        if alone:
            _remove_temporary_folders(target)
        temporary = target.parent / f".{target.name}.{secrets.token_hex(8)}.tmp"
        try:
            _write_folder(temporary, files)
            _swap(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _refuse_foreign(target: Path) -> None:
    if target.is_dir() and (_holds_card(target) or not any(target.iterdir())):
        return
    if target.exists():
        kind = "a folder with other files" if target.is_dir() else "a file"
        raise ArtefactError(
            f"{target} is {kind}, not a probe, and is left as it is; choose another path."
        )


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        with open(folder / name, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def _swap(temporary: Path, target: Path) -> None:
    retired = _retired(target)
    if _holds_card(target):
        _dissolve(retired, target)
        target.rename(retired)
    try:
        temporary.rename(target)
    finally:
        if retired.exists() and not _holds_card(target):
            retired.rename(target)
    sync_folder(target.parent)
    _dissolve(retired, target)


def _dissolve(retired: Path, target: Path) -> None:
    """Removes the probe that was set aside; what else its folder held moves to the new one."""
    if not retired.exists():
        return
    for entry in list(retired.iterdir()):
        if entry.name not in {CARD_NAME, WEIGHTS_NAME} and not (target / entry.name).exists():
            entry.rename(target / entry.name)
    shutil.rmtree(retired, ignore_errors=True)


def _remove_temporary_folders(target: Path) -> None:
    """Removes what killed saves have left."""
    token = "[0-9a-f]" * 16
    for left in target.parent.glob(f".{glob.escape(target.name)}.{token}.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def read_folder(folder: Path) -> tuple[bytes, bytes]:
    """Card and weights of one and the same save, as bytes."""
    target = Path(os.path.realpath(folder))
    try:
        with _locked(target.parent, fcntl.LOCK_SH):
            place = target if _holds_card(target) else _left_by_a_killed_save(target)
            return _read(place, CARD_NAME, folder), _read(place, WEIGHTS_NAME, folder)
    except OSError as error:
        raise ArtefactError(
            f"{folder} cannot be read ({error.strerror or error}); give the folder of a saved "
            "probe that you may read."
        ) from error


def _left_by_a_killed_save(target: Path) -> Path:
    if not _holds_card(_retired(target)):
        return target
    warnings.warn(
        f"The last save to {target} did not finish; the probe before it was read. Save it again.",
        stacklevel=4,
    )
    return _retired(target)


def _read(target: Path, name: str, folder: Path) -> bytes:
    if not target.is_dir():
        kind = "a file" if target.exists() else "not there"
        raise ArtefactError(f"{folder} is {kind}; give the folder of a saved probe.")
    try:
        return (target / name).read_bytes()
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{folder} holds no {name}, which every probe has; give the folder of a saved probe, "
            "or train it again."
        ) from error


def _holds_card(folder: Path) -> bool:
    return (folder / CARD_NAME).exists()


def _retired(target: Path) -> Path:
    return target.parent / f".{target.name}.old"


@contextmanager
def _locked(folder: Path, kind: int) -> Generator[bool]:
    """Keeps other saves out of a folder, and with LOCK_EX other loads; False where that fails."""
    descriptor = _lock(folder, kind)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path, kind: int) -> int | None:
    # Network file systems may refuse to lock a folder; a save alone is safe without it.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, kind)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Says in a sentence that a disk is full or cannot be written."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Probe {path} could not be saved ({error.strerror or error}); make room, or choose "
            "another path."
        ) from error
