"""A small ragged cache, and the means to fill it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pillion.cache import CacheSpec, CacheWriter

Fill = Callable[[Path, CacheSpec, list[Tensor]], None]


@pytest.fixture
def spec() -> CacheSpec:
    """Seven rows, one of them empty and one larger than a shard, in four shards."""
    return CacheSpec(
        key="model-template-texts",
        layers=(0, 3, 7),
        dim=5,
        dtype="bfloat16",
        lengths=(3, 1, 0, 40, 2, 7, 6),
        shard_bytes=10 * 3 * 5 * 2,
    )


@pytest.fixture
def rows(spec: CacheSpec) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(spec.layers), length, spec.dim) for length in spec.lengths]
    return [torch.randn(s, generator=generator).bfloat16() for s in shapes]


@pytest.fixture
def fill() -> Fill:
    def fill_cache(path: Path, spec: CacheSpec, rows: list[Tensor]) -> None:
        writer = CacheWriter(path, spec)
        for shard in writer.missing():
            writer.write(shard, [rows[row_id] for row_id in shard.row_ids])
        writer.finish()

    return fill_cache
