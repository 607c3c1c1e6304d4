"""Where verbs write: checked before any work begins, cleaned up after it.

Knows paths, not what is written there.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pillion.errors import ArtefactError, ConfigError, Interrupted, StorageError


def check_probe_folder(folder: Path) -> None:
    """Refuses a place where no probe can be saved.

    Raises:
        ConfigError: a file, a folder of other things, or one that cannot be written.
    """
    target = Path(os.path.realpath(folder))
    if target.is_dir() and not (target / "card.json").exists() and any(target.iterdir()):
        raise ConfigError(
            f"--out {folder} is a folder with other files, not a probe, and is left as it is; "
            "choose a new folder."
        )
    check_folder(folder, "--out")
    _check_parents(target, folder, "--out")


def check_folder(folder: Path, option: str) -> None:
    """Refuses a place where no folder can be.

    Raises:
        ConfigError: it is a file or inside one, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{option} {folder} is a file; give a folder.")
    _check_parents(folder / "inside", folder, option)


def check_file(path: Path | None, option: str, *read: str | Path | None) -> None:
    """Refuses a place where no file can be written; None is no place.

    Args:
        path: of the file.
        option: that it was given by.
        read: files, folders and patterns that the same run reads.

    Raises:
        ConfigError: it is a folder, or its own folder is not there or cannot be written, or it is
            one of the files that are read.
    """
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder; give a file in it.")
    if not path.absolute().parent.exists():
        raise ConfigError(f"{option} {path} is in a folder that is not there; make it first.")
    _check_parents(path, path, option)
    if any(_is_read(path, str(source)) for source in read if source is not None):
        raise ConfigError(
            f"{option} {path} is a file that this command reads, and would be replaced by what it "
            "writes; give another file."
        )


def _is_read(path: Path, source: str) -> bool:
    """Whether a file is the source, in the folder that it is, or met by its pattern."""
    if not path.exists():
        return False
    if os.path.isdir(source):
        return Path(source).resolve() in path.resolve().parents
    found = [source] if os.path.exists(source) else glob.glob(source, recursive=True)
    return any(os.path.samefile(one, path) for one in found)


def _check_parents(path: Path, named: Path, option: str) -> None:
    place = next(place for place in path.absolute().parents if place.exists())
    if not place.is_dir():
        raise ConfigError(f"{option} {named} lies inside {place}, which is a file.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {named} cannot be written: {place} is not yours to write in.")


@contextmanager
def work_folder(out_folder: Path, suffix: str = "") -> Generator[Path]:
    """A hidden folder beside the result, for what an interrupted run leaves to go on from.

    It is gone afterwards, unless the run was interrupted or the folder is an earlier run's that
    this one could not use.
    """
    target = Path(os.path.abspath(out_folder))
    work = target.with_name(f".{target.name}{suffix}.work")
    is_own = not work.exists()
    try:
        yield work
    except Interrupted:
        raise
    except Exception:
        if is_own:
            clear(work)
        raise
    clear(work)


@contextmanager
def kept_if_unsaved() -> Generator[None]:
    """Around the saving of a result in a work folder's block: where it fails, the work stays.

    Raises:
        Interrupted: what could not be saved, and that the same command finishes it.
    """
    try:
        yield
    except (ArtefactError, StorageError) as error:
        raise Interrupted(f"{error} The work is kept: repeat the command to finish it.") from error


def clear(work: Path) -> None:
    """Deletes a work folder: states of texts are as sensitive as the texts."""
    shutil.rmtree(work, ignore_errors=True)


def clear_inside(work: Path) -> None:
    """Deletes a work folder, and the folder that it is in if nothing else is there."""
    clear(work)
    with suppress(OSError):
        work.parent.rmdir()
