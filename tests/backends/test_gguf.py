from __future__ import annotations

import os
from pathlib import Path

import pytest

from pillion.backends.embedded import local_folder
from pillion.backends.gguf import converted, find_gguf, gguf_folder, is_converted
from pillion.errors import ConfigError, StorageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILLION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def gguf(folder: Path, name: str = "model.gguf", content: bytes = b"weights") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def convert(file: Path, folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(file.read_bytes())


def test_a_model_may_be_named_by_its_file_or_by_a_folder_that_holds_it(tmp_path: Path) -> None:
    file = gguf(tmp_path / "own")
    assert find_gguf(str(file)) == file
    assert find_gguf(str(tmp_path / "own")) == file


def test_a_folder_with_a_config_is_a_model_of_its_own(tmp_path: Path) -> None:
    gguf(tmp_path / "own")
    (tmp_path / "own" / "config.json").write_text("{}")
    assert find_gguf(str(tmp_path / "own")) is None
    assert local_folder(str(tmp_path / "own")) == tmp_path / "own"


@pytest.mark.parametrize("name", ["org/model", "embedded-like", "model.bin"])
def test_other_names_are_no_files(name: str) -> None:
    assert find_gguf(name) is None
    assert local_folder(name) is None


@pytest.mark.parametrize(
    ("names", "asked", "sentence"),
    [
        ([], "absent.gguf", "does not exist; give the path of a GGUF file"),
        (["a.gguf", "b.gguf"], ".", r"several GGUF files \(a.gguf, b.gguf\); give the path of one"),
        (["m-00001-of-00002.gguf"], ".", "one part of several; join them"),
    ],
    ids=["missing", "several", "a part"],
)
def test_a_file_that_cannot_be_told_is_refused(
    names: list[str], asked: str, sentence: str, tmp_path: Path
) -> None:
    for name in names:
        gguf(tmp_path / "own", name)
    with pytest.raises(ConfigError, match=sentence):
        find_gguf(str(tmp_path / "own" / asked))


def test_files_of_one_name_with_other_contents_have_folders_of_their_own(tmp_path: Path) -> None:
    first, second = gguf(tmp_path / "a"), gguf(tmp_path / "b", content=b"otherws")
    assert gguf_folder(first) != gguf_folder(second)
    assert gguf_folder(first).name.startswith("model-")


def test_a_moved_file_is_not_converted_again(tmp_path: Path) -> None:
    file = gguf(tmp_path / "a")
    folder = converted(file, gguf_folder(file), convert)
    moved = tmp_path / "model.gguf"
    file.rename(moved)
    os.utime(moved, ns=(0, 0))
    assert gguf_folder(moved) == folder
    assert is_converted(folder, moved)


def test_a_file_that_changed_between_its_ends_is_converted_again(tmp_path: Path) -> None:
    """The folder is named by both ends alone: what lies between them is compared by hash."""
    end = bytes(2**20)
    file = gguf(tmp_path / "a", content=end + b"one" + end)
    folder = converted(file, gguf_folder(file), convert)
    file.write_bytes(end + b"two" + end)
    os.utime(file, ns=(0, 0))
    assert gguf_folder(file) == folder
    assert not is_converted(folder, file)
    converted(file, folder, convert)
    assert (folder / "model.safetensors").read_bytes() == end + b"two" + end


def test_models_that_were_tuned_from_one_have_folders_of_their_own(tmp_path: Path) -> None:
    """With one name, size and time (as out of an archive), the second was given the first one."""
    head = bytes(2**20)
    files = [gguf(tmp_path / name, content=head + name.encode()) for name in ("a", "b")]
    for file in files:
        os.utime(file, ns=(0, 0))
    folders = [converted(file, gguf_folder(file), convert) for file in files]
    for file, folder in zip(files, folders, strict=True):
        assert (folder / "model.safetensors").read_bytes() == file.read_bytes()


def test_the_error_of_a_full_disk_names_the_file_and_the_room_it_needs(tmp_path: Path) -> None:
    file = gguf(tmp_path / "a", content=bytes(3 * 2**20))

    def fail(*_: Path) -> None:
        raise OSError("No space left on device")

    with pytest.raises(StorageError, match=r"model\.gguf could not be .* needs 12 MB there"):
        converted(file, gguf_folder(file), fail)
