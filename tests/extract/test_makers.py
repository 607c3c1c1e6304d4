"""Makers of states meet: those that round otherwise may share a run, others may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pillion.backends.fake import FakeBackend
from pillion.errors import MismatchError, StorageError
from pillion.extract import Maker, check_samples, extract
from pillion.extract.makers import MAKER_NAME, TOLERANCES

ROWS = [[1, 2, 3], [4, 5], [6]]


def off(share: float) -> FakeBackend:
    """The fake model, with weights of one layer a share larger."""
    backend = FakeBackend()
    backend.mixers[0] = backend.mixers[0] * (1 + share)
    return backend


def test_the_first_leaves_its_sample_and_the_next_may_round_otherwise(tmp_path: Path) -> None:
    Maker.of(FakeBackend()).meet(tmp_path / "cache")
    (left,) = (tmp_path / "cache").iterdir()
    assert left.name.startswith(MAKER_NAME)
    Maker.of(FakeBackend()).meet(tmp_path / "cache")
    Maker.of(off(1e-6)).meet(tmp_path / "cache")


def test_one_that_does_not_compute_the_same_is_refused_with_a_number(tmp_path: Path) -> None:
    Maker.of(FakeBackend()).meet(tmp_path)
    with pytest.raises(MismatchError, match=r"differ by 0\.\d+ of their length, where rounding"):
        Maker.of(off(0.01)).meet(tmp_path)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_tolerance_is_that_of_the_dtype(dtype: str) -> None:
    first = np.ones((3, 4), dtype=np.float32)
    other = first.copy()
    other[1] *= 1 + 0.9 * TOLERANCES[dtype]
    check_samples(first, other, dtype)
    other[1] *= 1 + 0.2 * TOLERANCES[dtype]
    with pytest.raises(MismatchError):
        check_samples(first, other, dtype)


def test_a_sample_without_a_number_is_no_rounding() -> None:
    first = np.ones((3, 4), dtype=np.float32)
    with pytest.raises(MismatchError):
        check_samples(first, first * np.float32("nan"), "float32")


def test_a_cache_that_one_maker_began_is_not_finished_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise StorageError("no room")

    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr("pillion.cache.shard_writer.ShardWriter.write", write)
        extract(FakeBackend(), ROWS, (1,), tmp_path / "cache", "key")
    with pytest.raises(MismatchError, match="disagree"):
        extract(off(0.01), ROWS, (1,), tmp_path / "cache", "key")
    extract(FakeBackend(), ROWS, (1,), tmp_path / "cache", "key").close()
    assert not list((tmp_path / "cache").glob(f"{MAKER_NAME}*"))


def test_a_sample_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    Maker.of(FakeBackend()).meet(tmp_path)
    next(tmp_path.iterdir()).write_bytes(b"no numbers")
    with pytest.raises(StorageError, match="cannot be read"):
        Maker.of(FakeBackend()).meet(tmp_path)


def test_another_model_in_the_same_folder_is_no_other_maker(tmp_path: Path) -> None:
    """A killed run may be followed by one with another model, which begins anew."""
    Maker.of(FakeBackend()).meet(tmp_path)
    Maker.of(FakeBackend(seed=1)).meet(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
