from __future__ import annotations

import errno
import json
import os
from array import array
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open
from torch import Tensor

from pillion.cache import CacheReader, CacheSpec, CacheWriter, Shard, disk, is_of
from pillion.errors import StateError, StorageError

Usage = namedtuple("Usage", "total used free")
Fill = Callable[[Path, CacheSpec, list[Tensor]], None]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def of(shard: Shard, rows: list[Tensor]) -> list[Tensor]:
    return [rows[row_id] for row_id in shard.row_ids]


def test_every_shard_is_a_valid_safetensors_file(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], fill: Fill
):
    fill(tmp_path, spec, rows)
    for path, shard in zip(sorted(tmp_path.glob("*.safetensors")), spec.shards, strict=True):
        tensors = load_file(path)
        flat = torch.cat([row.reshape(-1) for row in of(shard, rows)])
        assert torch.equal(tensors["states"], flat)
        ends = [0, *(3 * 5 * length for length in shard.lengths)]
        assert tensors["offsets"].tolist() == torch.tensor(ends).cumsum(0).tolist()
        with safe_open(path, "pt") as file:
            assert file.metadata()["key"] == spec.key


def test_the_manifest_holds_the_spec_and_a_hash_of_every_shard(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], fill: Fill
):
    fill(tmp_path, spec, rows)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["spec"]["layers"] == [0, 3, 7]
    shards = manifest["shards"]
    assert [entry["file"] for entry in shards] == sorted(
        path.name for path in tmp_path.glob("*.safetensors")
    )
    for entry in shards:
        assert (tmp_path / entry["file"]).stat().st_size == entry["bytes"]
        assert disk.file_digest(tmp_path / entry["file"]) == entry["sha256"]


def test_names_of_shards_tell_specs_apart(tmp_path: Path, spec: CacheSpec, rows: list[Tensor]):
    names: set[str] = set()
    others = [replace(spec, key="other"), replace(spec, layers=(0, 3, 8)), spec]
    for index, other in enumerate(others):
        writer = CacheWriter(tmp_path / str(index), other)
        writer.write(spec.shards[0], of(spec.shards[0], rows))
        names |= {path.name for path in (tmp_path / str(index)).glob("*.safetensors")}
    assert len(names) == len(others)


def test_a_second_writer_of_a_complete_cache_has_nothing_to_do(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], fill: Fill
):
    fill(tmp_path, spec, rows)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    writer = CacheWriter(tmp_path, spec)
    assert writer.complete
    assert writer.missing() == []
    writer.finish()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_later_run_writes_only_what_is_missing(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], fill: Fill
):
    first = CacheWriter(tmp_path / "resumed", spec)
    first.write(spec.shards[1], of(spec.shards[1], rows))
    second = CacheWriter(tmp_path / "resumed", spec)
    assert [shard.shard_id for shard in second.missing()] == [0, 2, 3]
    fill(tmp_path / "resumed", spec, rows)
    fill(tmp_path / "whole", spec, rows)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_a_whole_shard_is_not_written_again(tmp_path: Path, spec: CacheSpec, rows: list[Tensor]):
    writer, shard = CacheWriter(tmp_path, spec), spec.shards[0]
    writer.write(shard, of(shard, rows))
    (path,) = tmp_path.glob("*.safetensors")
    inode = path.stat().st_ino
    CacheWriter(tmp_path, spec).write(shard, of(shard, rows))
    assert path.stat().st_ino == inode


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def spoil_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut_short, cut_to_nothing, spoil_header, os.remove])
@pytest.mark.parametrize("finished", [True, False])
def test_a_broken_shard_is_detected_and_redone(
    tmp_path: Path,
    spec: CacheSpec,
    rows: list[Tensor],
    fill: Fill,
    harm: Callable[[Path], None],
    finished: bool,
):
    fill(tmp_path, spec, rows)
    whole = contents(tmp_path)
    if not finished:
        (tmp_path / "manifest.json").unlink()
    harm(sorted(tmp_path.glob("*.safetensors"))[2])
    with pytest.raises(StorageError, match="incomplete: 3 of 4 shards; run the same command again"):
        CacheReader(tmp_path)
    writer = CacheWriter(tmp_path, spec)
    assert not writer.complete
    assert [shard.shard_id for shard in writer.missing()] == [2]
    fill(tmp_path, spec, rows)
    assert contents(tmp_path) == whole


def test_a_cache_of_another_spec_is_refused_by_what_differs(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], fill: Fill
):
    CacheWriter(tmp_path / "begun", spec)
    fill(tmp_path / "complete", spec, rows)
    for folder in (tmp_path / "begun", tmp_path / "complete"):
        before = contents(folder)
        with pytest.raises(StorageError, match=r"layers: \(0, 3, 7\) there, \(1, 3, 7\) here"):
            CacheWriter(folder, replace(spec, layers=(1, 3, 7)))
        assert contents(folder) == before


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[]", '{"format": 2, "spec": {}}', '{"format": 1, "spec": {"a": 1}}']
)
@pytest.mark.parametrize("name", ["spec.json", "manifest.json"])
def test_a_file_of_another_format_is_refused_by_name(
    tmp_path: Path, spec: CacheSpec, content: str, name: str
):
    (tmp_path / name).write_text(content)
    with pytest.raises(StorageError, match=f"{name} is no {name} of a cache of format 1"):
        CacheWriter(tmp_path, spec)


def test_finish_is_refused_while_shards_are_missing(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor]
):
    writer = CacheWriter(tmp_path, spec)
    writer.write(spec.shards[0], of(spec.shards[0], rows))
    with pytest.raises(StorageError, match="3 of 4 shards are missing"):
        writer.finish()
    assert not writer.complete


def test_a_cache_without_rows_is_complete_at_once(tmp_path: Path, spec: CacheSpec):
    writer = CacheWriter(tmp_path, replace(spec, lengths=()))
    assert writer.missing() == []
    writer.finish()
    with CacheReader(tmp_path) as reader:
        assert len(reader) == 0
        hidden, mask = reader.read_batch([])
        assert hidden.shape == (3, 0, 0, 5)
        assert mask.shape == (0, 0)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, spec: CacheSpec, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 10**9, 2 * 10**6))
    large = replace(spec, lengths=(10**6,) * 3)
    with pytest.raises(
        StorageError, match=r"needs .* GB, 0.002 GB free at .*fewer layers, another folder"
    ):
        CacheWriter(tmp_path / "new" / "cache", large)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_cache_needs_room_for_the_missing_shards_only(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], monkeypatch: pytest.MonkeyPatch
):
    writer = CacheWriter(tmp_path, spec)
    for shard in spec.shards[:3]:
        writer.write(shard, of(shard, rows))
    state_bytes = 6 * 3 * spec.token_bytes
    free = [state_bytes]
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 10**9, free[0]))
    with pytest.raises(StorageError, match="free at"):
        CacheWriter(tmp_path, spec)
    free[0] = state_bytes + 1000
    assert len(CacheWriter(tmp_path, spec).missing()) == 1


class FullFile:
    """A file on a disk that fills up after a few bytes."""

    def __init__(self, path: Path, mode: str) -> None:
        self._file = open(path, mode)  # noqa: SIM115

    def __enter__(self) -> FullFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> int:
        self._file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


def full_sync(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["write", "sync"])
def test_a_disk_that_fills_up_leaves_the_shard_missing_and_no_trace(
    tmp_path: Path,
    spec: CacheSpec,
    rows: list[Tensor],
    fill: Fill,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
):
    writer, shard = CacheWriter(tmp_path, spec), spec.shards[0]
    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(disk, "open", FullFile, raising=False)
        else:
            patch.setattr(os, "fsync", full_sync)
        with pytest.raises(StorageError, match=r"No space left on device at .*fewer layers"):
            writer.write(shard, of(shard, rows))
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]
    assert len(writer.missing()) == 4
    fill(tmp_path, spec, rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_states_that_are_not_finite_are_refused_by_row_token_and_layer(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], value: float
):
    writer = CacheWriter(tmp_path, spec)
    rows[4][1, 1, 2] = value
    with pytest.raises(StateError, match=r"row 4, token 1, layer 3 is not finite"):
        writer.write(spec.shards[2], of(spec.shards[2], rows))
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_states_of_another_shape_or_dtype_are_refused(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor]
):
    writer, shard = CacheWriter(tmp_path, spec), spec.shards[2]
    with pytest.raises(StateError, match=r"has 2 rows, got 1"):
        writer.write(shard, [rows[4]])
    with pytest.raises(StateError, match=r"Row 5 has states \(3, 2, 5\) .* = \(3, 7, 5\)"):
        writer.write(shard, [rows[4], rows[4]])
    with pytest.raises(StateError, match=r"Row 4 .* of torch.float64"):
        writer.write(shard, [row.double() for row in of(shard, rows)])


def test_states_with_gradients_or_odd_strides_are_written_as_they_are(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], fill: Fill
):
    strided = [row.transpose(0, 2).contiguous().transpose(0, 2).requires_grad_() for row in rows]
    fill(tmp_path / "strided", spec, strided)
    fill(tmp_path / "plain", spec, rows)
    assert contents(tmp_path / "strided") == contents(tmp_path / "plain")


class Interrupting(Sequence[Tensor]):
    """Rows in whose midst something happens: at the last row, when it is written."""

    def __init__(self, rows: list[Tensor], act: Callable[[], None]) -> None:
        self.rows, self.act, self.num_asked = rows, act, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        self.num_asked += index == len(self.rows) - 1
        if self.num_asked == 2:
            self.act()
        return self.rows[index]


def test_a_writer_is_not_harmed_when_another_finishes_the_cache_meanwhile(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], fill: Fill
):
    slow, shard = CacheWriter(tmp_path, spec), spec.shards[3]
    states = Interrupting(of(shard, rows), lambda: fill(tmp_path, spec, rows))
    slow.write(shard, states)
    assert states.num_asked >= 2
    slow.finish()
    with CacheReader(tmp_path) as reader:
        assert torch.equal(reader.read(6), rows[6])
        reader.verify()


def test_the_manifest_holds_the_hash_of_what_lies_on_disk_in_the_end(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor]
):
    writer = CacheWriter(tmp_path, spec)
    for shard in spec.shards:
        writer.write(shard, of(shard, rows))
    # Another process, on a machine that rounds otherwise, has renamed its own file last.
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    theirs = tmp_path / "theirs"
    theirs.write_bytes(last.read_bytes()[:-2] + b"\1\1")
    theirs.replace(last)
    writer.finish()
    with CacheReader(tmp_path) as reader:
        reader.verify()


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, spec: CacheSpec, rows: list[Tensor]):
    def interrupt() -> None:
        raise KeyboardInterrupt

    writer, shard = CacheWriter(tmp_path, spec), spec.shards[0]
    with pytest.raises(KeyboardInterrupt):
        writer.write(shard, Interrupting(of(shard, rows), interrupt))
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path, spec: CacheSpec):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"Not a directory at .*file"):
        CacheWriter(tmp_path / "file" / "cache", spec)


def test_many_rows_are_written_as_few_are_and_need_not_be_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths in an array, pieces of two rows: the bytes are those of `json.dumps`."""
    monkeypatch.setattr("pillion.cache.manifest._PIECE_ROWS", 2)
    lengths = (3, 300, 0, 5, 1)
    segments = tuple(((0, n, "user", 0, "content"),) if n else () for n in lengths)
    known = CacheSpec("key", (1, 3), 2, "float32", lengths, 4096, "user", segments)
    spec = replace(known, lengths=array("i", lengths))
    writer = CacheWriter(tmp_path, spec)
    wanted = json.dumps({"format": 1, "spec": asdict(known)})
    assert (tmp_path / "spec.json").read_text() == wanted
    for shard in writer.missing():
        writer.write(shard, [torch.ones(2, length, 2) for length in shard.lengths])
    writer.finish()
    manifest = (tmp_path / "manifest.json").read_text()
    assert manifest.startswith(wanted[:-1] + ', "shards": [{"file": "shard-00000-')
    assert json.loads(manifest)["spec"]["lengths"] == list(lengths)
    with CacheReader(tmp_path) as reader:
        assert reader.spec == known
        reader.verify()
    monkeypatch.setattr("pillion.cache.writer.read_manifest", None)
    assert CacheWriter(tmp_path, spec).complete
    assert is_of(tmp_path, "key") and not is_of(tmp_path, "ke") and not is_of(tmp_path / "x", "key")
