"""Finds the files that a source names, on this machine or in an object store, and reads them.

A source is a file, a folder, a pattern (`rows/*.parquet`) or the URL of one of these in any file
system that fsspec or pyarrow knows (`s3://`, `gs://`, `https://`, ...). Does not know what is in
the files.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pillion.errors import ConfigError, DataError

_STAMPS = {"size", "mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "md5Hash"}
"""What file systems call the facts that change with a file's contents."""


@dataclass(frozen=True)
class DataFile:
    """One file of a source.

    Attributes:
        name: what errors call it; the source itself where that is a single file.
        system: the file system it lies in, of fsspec.
        path: its place there.
    """

    name: str
    system: Any
    path: str

    @property
    def suffix(self) -> str:
        """The ending of its name, in lower case, with its dot."""
        return posixpath.splitext(self.path)[1].lower()

    def read(self) -> bytes:
        """All of it.

        Raises:
            DataError: it cannot be read.
        """
        with reading(self.name):
            return self.system.cat_file(self.path)

    def part(self, begin: int, end: int) -> bytes:
        """Its bytes from `begin` up to `end`.

        Raises:
            DataError: it cannot be read.
        """
        with reading(self.name):
            return self.system.cat_file(self.path, start=begin, end=end)

    def open(self) -> Any:
        """The file, to be read in pieces; reading may raise OSError (see `reading`)."""
        return self.system.open(self.path, "rb")

    def facts(self) -> tuple[int, str]:
        """Its size in bytes, and what tells it from an earlier file of that name.

        Raises:
            DataError: it cannot be read.
        """
        with reading(self.name):
            info = self.system.info(self.path)
        known = sorted((key, str(value)) for key, value in info.items() if key in _STAMPS)
        return int(info.get("size") or 0), repr((self.path, known))


def find_files(source: str, suffixes: Collection[str]) -> list[DataFile]:
    """The files of a source, ordered by their paths; one or more.

    Names that begin with a dot or an underscore (`_SUCCESS`) are no part of a folder.

    Args:
        source: a file, folder, pattern, or URL of one.
        suffixes: endings of the files that can be read.

    Raises:
        DataError: nothing lies there, or something that is none of these files.
        ConfigError: a URL whose file system needs a package that is not installed.
    """
    system, path = _open_system(source)
    with reading(source):
        kind = system.info(path)["type"] if system.exists(path) else None
        if kind == "file":
            found = [DataFile(source, system, path)]
        elif kind == "directory":
            found = _files_below(system, path, source)
        else:
            found = _matches(system, path, source)
    if not found and kind is None:
        raise DataError(f"{source} does not exist; give the path of a data file or folder.")
    for file in found:
        if file.suffix not in suffixes:
            raise DataError(_unknown_kind(file, source, suffixes))
    if not found:
        raise DataError(f"{source} is a folder without files; give one with data files.")
    return found


def _open_system(source: str) -> tuple[Any, str]:
    """The file system that a source lies in, and its path there."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(source)
    except ImportError as error:
        found = _arrow_system(source)
        if found is None:
            raise ConfigError(f"{source} cannot be opened: {error}.") from error
        return found
    except ValueError as error:
        raise ConfigError(f"{source} cannot be opened ({error}); give a path or a URL.") from error


def _arrow_system(source: str) -> tuple[Any, str] | None:
    """The same through pyarrow, which brings some object stores along; None if it does not."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    try:
        with reading(source):
            system, path = FileSystem.from_uri(source)
    except ArrowInvalid:
        return None
    return ArrowFSWrapper(system), path


def _matches(system: Any, pattern: str, source: str) -> list[DataFile]:
    if not any(character in pattern for character in "*?["):
        return []
    places = sorted(place for place in system.glob(pattern) if system.isfile(place))
    is_url = "://" in source
    return [DataFile(system.unstrip_protocol(p) if is_url else p, system, p) for p in places]


def _files_below(system: Any, folder: str, source: str) -> list[DataFile]:
    places = [
        place
        for place in system.find(folder)
        if not any(part.startswith((".", "_")) for part in _inside(place, folder).split("/"))
    ]
    # By their parts: a folder stays together whatever other names begin with.
    places.sort(key=lambda place: place.split("/"))
    return [
        DataFile(posixpath.join(source, _inside(place, folder)), system, place) for place in places
    ]


def _inside(place: str, folder: str) -> str:
    return place.removeprefix(folder.rstrip("/")).lstrip("/")


def _unknown_kind(file: DataFile, source: str, suffixes: Collection[str]) -> str:
    known = ", ".join(suffixes)
    if file.name == source:
        return (
            f"{source} ends in {file.suffix!r}, which is no known kind of file; "
            f"give one of: {known}."
        )
    return (
        f"{source} holds {file.name}, which is no known kind of file ({known}); take it out, or "
        "give a pattern such as 'folder/*.parquet'."
    )


@contextmanager
def reading(source: str) -> Generator[None]:
    """Turns an OSError of the block into a DataError that names the source."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"{source} does not exist; give the path of a data file or folder."
        ) from None
    except OSError as error:
        why = error.strerror or str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{source} cannot be read ({why}); give the path of a readable data file."
        ) from error
