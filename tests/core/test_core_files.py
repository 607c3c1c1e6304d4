"""A file that is replaced is the old one or the new one, and never leaves another beside it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pillion.core.files import replace_file, replacing
from pillion.errors import StorageError


def test_a_file_takes_the_place_of_the_old_one_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.json"
    for content in (b"old", b"new"):
        replace_file(path, content)
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["one.json"]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)
def test_a_file_that_cannot_be_written_leaves_the_old_one_and_a_sentence(
    tmp_path: Path, error: OSError, why: str
) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(b"old")
    with pytest.raises(StorageError) as caught, replacing(path, "choose --out") as temporary:
        temporary.write_bytes(b"half of it")
        raise error
    assert str(caught.value) == f"{path} could not be written ({why}); choose --out."
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["one.json"]


def test_whoever_gives_up_halfway_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"half of it")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["one.json"]
