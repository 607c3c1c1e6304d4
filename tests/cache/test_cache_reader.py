from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from pillion.cache import DTYPES, CacheReader, CacheSpec, CacheWriter, Workspace, disk
from pillion.errors import ConfigError, StorageError

Fill = Callable[[Path, CacheSpec, list[Tensor]], None]


@pytest.fixture
def cache(tmp_path: Path, spec: CacheSpec, rows: list[Tensor], fill: Fill) -> Path:
    fill(tmp_path / "cache", spec, rows)
    return tmp_path / "cache"


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_come_back_bit_for_bit(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor], fill: Fill, dtype: str
):
    rows = [row.to(DTYPES[dtype]) for row in rows]
    fill(tmp_path, replace(spec, dtype=dtype), rows)
    with CacheReader(tmp_path) as reader:
        assert len(reader) == len(rows)
        for row_id, row in enumerate(rows):
            hidden = reader.read(row_id)
            assert hidden.dtype == row.dtype
            assert torch.equal(hidden.view(torch.uint8), row.view(torch.uint8))


def test_every_finite_bfloat16_comes_back_bit_for_bit(tmp_path: Path, fill: Fill):
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = patterns.view(torch.bfloat16)
    values = values[torch.isfinite(values)]
    spec = CacheSpec("k", (0,), 32, "bfloat16", (values.numel() // 32,))
    row = values.view(1, -1, 32)
    fill(tmp_path, spec, [row])
    with CacheReader(tmp_path) as reader:
        # As integers, so that minus zero and zero differ.
        assert torch.equal(reader.read(0).view(torch.int16), row.view(torch.int16))


def test_the_spec_comes_back_equal(cache: Path, spec: CacheSpec):
    with CacheReader(cache) as reader:
        assert reader.spec == spec
        assert reader.layers == spec.layers


@pytest.mark.parametrize("row_ids", [[0], [2], [3, 0, 2, 6], [5, 5, 1], [6, 5, 4, 3, 2, 1, 0], []])
@pytest.mark.parametrize("layers", [None, (0,), (7,), (3, 7), (7, 0), (7, 3, 0), (0, 7, 3)])
def test_a_batch_is_its_single_rows_padded_with_zeros_on_the_right(
    cache: Path, rows: list[Tensor], row_ids: list[int], layers: tuple[int, ...] | None
):
    with CacheReader(cache, layers=layers) as reader:
        hidden, mask = reader.read_batch(row_ids)
        places = [(0, 3, 7).index(layer) for layer in reader.layers]
    num_tokens = max((rows[row_id].shape[1] for row_id in row_ids), default=0)
    assert hidden.shape == (len(places), len(row_ids), num_tokens, 5)
    assert mask.shape == (len(row_ids), num_tokens)
    for place, row_id in enumerate(row_ids):
        length = rows[row_id].shape[1]
        assert torch.equal(hidden[:, place, :length], rows[row_id][places])
        assert not hidden[:, place, length:].any()
        assert mask[place].tolist() == [True] * length + [False] * (num_tokens - length)


def test_a_workspace_changes_nothing_but_the_memory(cache: Path):
    workspace = Workspace()
    with CacheReader(cache) as reader:
        for row_ids in ([3, 1], [4, 5, 6], [2], [0, 1, 2], [3]):
            fresh, fresh_mask = reader.read_batch(row_ids)
            reused, reused_mask = reader.read_batch(row_ids, workspace)
            assert torch.equal(fresh, reused)
            assert torch.equal(fresh_mask, reused_mask)
        large = reader.read_batch([3, 3, 3], workspace)[0].data_ptr()
        assert reader.read_batch([1, 0], workspace)[0].data_ptr() == large


def test_batches_without_a_workspace_are_the_callers_to_keep(cache: Path, rows: list[Tensor]):
    with CacheReader(cache) as reader:
        kept = [reader.read(row_id) for row_id in range(len(rows))]
    assert all(torch.equal(*pair) for pair in zip(kept, rows, strict=True))


def test_a_read_that_is_cut_into_pieces_gives_the_same_rows(
    cache: Path, rows: list[Tensor], monkeypatch: pytest.MonkeyPatch
):
    """One system call reads 2 GiB at most, and so many buffers."""
    preadv = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(descriptor, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", short)
    monkeypatch.setattr(disk, "_MAX_BUFFERS", 2)
    with CacheReader(cache) as reader:
        assert all(torch.equal(reader.read(i), row) for i, row in enumerate(rows))


def test_threads_may_share_a_reader(cache: Path, rows: list[Tensor]):
    row_ids = list(range(len(rows))) * 20
    with CacheReader(cache) as reader, ThreadPoolExecutor(4) as pool:
        read = list(pool.map(reader.read, row_ids))
    assert all(torch.equal(h, rows[i]) for h, i in zip(read, row_ids, strict=True))


def test_a_shard_that_is_cut_short_while_it_is_read_is_a_storage_error(cache: Path):
    with CacheReader(cache) as reader:
        os.truncate(sorted(cache.glob("*.safetensors"))[-1], 100)
        with pytest.raises(StorageError, match=r"shard-00003-.* was cut short"):
            reader.read(6)


@pytest.mark.parametrize("row_id", [-1, 7])
def test_a_row_that_is_not_there_is_an_index_error(cache: Path, row_id: int):
    with (
        CacheReader(cache) as reader,
        pytest.raises(IndexError, match=f"no row {row_id} in a cache of 7 rows"),
    ):
        reader.read(row_id)


@pytest.mark.parametrize("layers", [(1,), (0, 4), ()])
def test_layers_that_are_not_there_are_refused(cache: Path, layers: tuple[int, ...]):
    with pytest.raises(ConfigError, match=r"holds the layers \(0, 3, 7\), got"):
        CacheReader(cache, layers=layers)


def test_a_folder_without_a_cache_is_refused(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StorageError, match="No cache lies in"):
            CacheReader(folder)


def test_a_cache_without_a_manifest_is_refused_as_incomplete(
    tmp_path: Path, spec: CacheSpec, rows: list[Tensor]
):
    writer = CacheWriter(tmp_path, spec)
    for num_shards, shard in enumerate(spec.shards):
        with pytest.raises(StorageError, match=f"incomplete: {num_shards} of 4 shards; run the"):
            CacheReader(tmp_path)
        writer.write(shard, [rows[row_id] for row_id in shard.row_ids])
    with pytest.raises(StorageError, match="incomplete: 4 of 4 shards"):
        CacheReader(tmp_path)


def test_a_changed_bit_is_found_by_verify(cache: Path):
    path = sorted(cache.glob("*.safetensors"))[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with CacheReader(cache) as reader:
        reader.verify()
        path.write_bytes(content)
        with pytest.raises(StorageError, match=f"contents of {path.name} in .* have changed"):
            reader.verify()


def test_a_closed_reader_reads_nothing(cache: Path):
    reader = CacheReader(cache)
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed file"):
        reader.read(0)


def test_memory_does_not_grow_with_the_cache(tmp_path: Path, fill: Fill):
    spec = CacheSpec("k", (0, 1), 1024, "float32", (64,) * 128, shard_bytes=8 * 2**20)
    assert spec.num_bytes == 64 * 2**20
    fill(tmp_path, spec, [torch.ones(2, 64, 1024)] * 128)
    with CacheReader(tmp_path) as reader:
        reader.read_batch([0, 1])
        before = psutil.Process().memory_info().rss
        for row_id in range(128):
            reader.read_batch([row_id, 127 - row_id])
        assert psutil.Process().memory_info().rss - before < 16 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="lists mapped files through /proc")
def test_no_file_of_the_cache_is_mapped(cache: Path):
    with CacheReader(cache) as reader:
        kept = reader.read_batch([0, 1, 3])
        assert str(cache) not in Path("/proc/self/maps").read_text()
    assert kept[0].numel()
