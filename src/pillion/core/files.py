"""Files that are written whole or not at all.

Does not know what they hold.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pillion.errors import StorageError

ELSEWHERE = "choose another place"


@contextmanager
def replacing(path: Path, way_out: str = ELSEWHERE) -> Generator[Path]:
    """The name of a file that takes the place of `path` when the block ends, or leaves no trace.

    Args:
        path: what is replaced.
        way_out: what the reader of the error should do.

    Raises:
        StorageError: it cannot be written; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # a name that survives a power cut has its content behind it
        os.replace(temporary, path)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        why = "the disk is full" if full else error.strerror or error
        raise StorageError(f"{path} could not be written ({why}); {way_out}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut, as `fsync` does a file's content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, way_out: str = ELSEWHERE) -> None:
    """Writes a file in the place of what is there; makes its folder.

    Raises:
        StorageError: it cannot be written; what was there before stays.
    """
    with replacing(path, way_out) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
