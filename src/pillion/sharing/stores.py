"""Places where shared probes lie: a repository of the Hugging Face hub, or a folder of any URL.

Behind one contract: names, read, write. Knows names and bytes, not what they mean.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pillion.errors import ArtefactError, ConfigError, RunError
from pillion.probe.folders import replace_folder, storage_errors
from pillion.sharing.manifest import MANIFEST_NAME

HUB = "hf://"


@runtime_checkable
class Store(Protocol):
    """A place for the files of one probe.

    Law: `read` after `write` gives what was written. Who reads while another writes gets the old
    files, the new ones, or no manifest; or both mixed, which the manifest's hashes tell.

    Attributes:
        url: what the user calls it.
    """

    url: str

    def names(self) -> set[str]:
        """Files that lie there; empty where nothing is.

        Raises:
            RunError: the place cannot be reached.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it is missing.

        Raises:
            ArtefactError: there is no such place.
            RunError: the place cannot be reached.
        """
        ...

    def write(self, files: Mapping[str, bytes], message: str, public: bool) -> None:
        """Puts files there in the place of those of the same names, the manifest among them.

        Args:
            files: by name.
            message: what is written, for places that keep a history.
            public: whether a place that has to be made is open to all.

        Raises:
            ConfigError: nothing can be written there.
            RunError: the place cannot be reached, or refuses.
        """
        ...


def open_store(url: str) -> Store:
    """The place that a URL names: `hf://owner/name[@revision]`, or what fsspec knows.

    Raises:
        ConfigError: an unknown kind of URL, or one that needs a package that is not installed.
    """
    if url.startswith(HUB):
        from pillion.sharing.hub import HubStore

        return HubStore(url)
    return FolderStore(url)


class FolderStore:
    """A folder in a file system of fsspec: `file://`, `s3://`, `memory://`, ..."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        try:
            self._system, place = url_to_fs(url)
        except ImportError as error:
            raise ConfigError(f"{url} cannot be opened: {error}.") from error
        except ValueError as error:
            raise ConfigError(f"{url} cannot be opened ({error}); give a URL.") from error
        self._place = str(place).rstrip("/")

    def names(self) -> set[str]:
        """Files that lie in the folder."""
        with reaching(self.url):
            self._system.invalidate_cache()
            if not self._system.exists(self._place):
                return set()
            found = self._system.ls(self._place, detail=False)
        return {str(one).rstrip("/").rpartition("/")[2] for one in found}

    def read(self, name: str) -> bytes | None:
        """A file's content."""
        with reaching(self.url):
            try:
                return self._system.cat_file(f"{self._place}/{name}")
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, files: Mapping[str, bytes], message: str, public: bool) -> None:
        """Swaps a folder of this machine in one step; elsewhere the manifest goes first and last.

        So a reader that comes between finds no manifest.
        """
        if self._is_local():
            target = Path(self._place)
            with storage_errors(target):
                return replace_folder(target, files)
        order = [name for name in files if name != MANIFEST_NAME]
        with reaching(self.url):
            self._system.makedirs(self._place, exist_ok=True)
            if self._system.exists(f"{self._place}/{MANIFEST_NAME}"):
                self._system.rm_file(f"{self._place}/{MANIFEST_NAME}")
            for name in (*order, MANIFEST_NAME):
                self._system.pipe_file(f"{self._place}/{name}", files[name])

    def _is_local(self) -> bool:
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(self._system, LocalFileSystem)


@contextmanager
def reaching(url: str) -> Generator[None]:
    """Says in a sentence that a place cannot be reached or does not let us in."""
    try:
        yield
    except NotImplementedError as error:
        raise ConfigError(
            f"Nothing can be written to {url}: its file system only reads; give another URL."
        ) from error
    except PermissionError as error:
        raise RunError(
            f"{url} does not let us in ({reason(error)}); check the account that this machine uses."
        ) from error
    except OSError as error:
        raise RunError(
            f"{url} could not be reached ({reason(error)}); check the network and the name."
        ) from error


def reason(error: Any) -> str:
    """The first line of what an error says."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(said).strip().splitlines()[0].rstrip(".")


def no_probe(url: str) -> ArtefactError:
    """The error for a place without a manifest."""
    return ArtefactError(
        f"No shared probe lies at {url} (no {MANIFEST_NAME}), or one is being written; check the "
        "name, or push one first."
    )
