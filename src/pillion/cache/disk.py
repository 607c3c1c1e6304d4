"""Files that appear whole or not at all, on a disk that may be full.

Promises that a reader never meets a half-written file under its final name, that two writers of
one file do not harm each other, and that every failure is a StorageError. Does not know what the
files hold.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from pillion.core.files import sync_folder
from pillion.errors import StorageError

_WAYS_OUT = "choose fewer layers, another folder, or a live pass, which keeps no cache"
_FULL = {errno.ENOSPC, errno.EDQUOT}
# Room for headers, and for what other programs write meanwhile.
_MARGIN = 1.05
# Linux takes 1,024 buffers in one preadv; POSIX promises fewer.
_MAX_BUFFERS = os.sysconf("SC_IOV_MAX")


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turns an OSError of the block into a StorageError that names the path and a way out."""
    try:
        yield
    except OSError as error:
        hint = f"; {_WAYS_OUT}" if error.errno in _FULL else ""
        raise StorageError(f"{error.strerror or error} at {path}{hint}.") from error


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, or leaves no trace.

    Raises:
        StorageError: the disk is full, or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with storage_errors(path):
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder."""
    with storage_errors(folder):
        for temporary in folder.glob(".*.tmp"):
            temporary.unlink(missing_ok=True)


def require_free(folder: Path, num_bytes: int) -> None:
    """Checks that a folder, which need not exist yet, has room for `num_bytes` and a margin.

    Raises:
        StorageError: it has not; the message says what is needed, what is free and what to do.
    """
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    with storage_errors(place):
        free_bytes = shutil.disk_usage(place).free
    needed_bytes = int(num_bytes * _MARGIN)
    if needed_bytes > free_bytes:
        raise StorageError(
            f"The cache needs {_gb(needed_bytes)}, {_gb(free_bytes)} free at {folder}; {_WAYS_OUT}."
        )


def read_into(file: FileIO, buffers: list[memoryview], offset: int) -> None:
    """Fills the buffers, one after the other, with the bytes of a file from an offset on.

    Reads at a place of its own, so that threads may share the file.

    Raises:
        StorageError: the file ends before the buffers are full.
    """
    while buffers:
        num_read = os.preadv(file.fileno(), buffers[:_MAX_BUFFERS], offset)
        if not num_read:
            raise StorageError(f"{file.name} was cut short while it was read; write it again.")
        offset += num_read
        buffers = _unfilled(buffers, num_read)


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces.

    Raises:
        StorageError: the file cannot be read.
    """
    with storage_errors(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unfilled(buffers: list[memoryview], num_read: int) -> list[memoryview]:
    # One call fills 2 GiB at most, and may be cut anywhere by a signal.
    for index, buffer in enumerate(buffers):
        if num_read < len(buffer):
            return [buffer[num_read:], *buffers[index + 1 :]]
        num_read -= len(buffer)
    return []


def _rename(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except FileNotFoundError:
        # Another process has finished the same cache and cleared it of temporary files.
        if not path.exists():
            raise
    # Without it a power cut may keep the manifest and lose a shard's name.
    sync_folder(path.parent)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.3g} GB"
