from __future__ import annotations

import dataclasses

import pytest

from pillion.cache import CacheSpec
from pillion.errors import ConfigError


def spec_of(**changes: object) -> CacheSpec:
    values: dict[str, object] = {
        "key": "k",
        "layers": (1, 2),
        "dim": 4,
        "dtype": "float32",
        "lengths": (3, 5, 2),
    }
    return CacheSpec(**{**values, **changes})  # type: ignore[arg-type]


def test_the_size_is_that_of_all_states():
    assert spec_of().num_bytes == (3 + 5 + 2) * 2 * 4 * 4
    assert spec_of(dtype="bfloat16").num_bytes == (3 + 5 + 2) * 2 * 4 * 2


def test_shards_hold_all_rows_in_order_and_at_most_their_bytes():
    spec = spec_of(lengths=(3, 5, 0, 2, 8, 1, 1), shard_bytes=8 * 2 * 4 * 4)
    assert [list(shard.row_ids) for shard in spec.shards] == [[0, 1, 2], [3], [4], [5, 6]]
    assert [shard.lengths for shard in spec.shards] == [(3, 5, 0), (2,), (8,), (1, 1)]
    assert [shard.shard_id for shard in spec.shards] == [0, 1, 2, 3]


def test_a_row_larger_than_a_shard_has_a_shard_of_its_own():
    shards = spec_of(lengths=(1, 900, 1), shard_bytes=64).shards
    assert [list(shard.row_ids) for shard in shards] == [[0], [1], [2]]


def test_no_rows_are_no_shards():
    assert spec_of(lengths=()).shards == ()
    assert spec_of(lengths=()).num_bytes == 0


def test_differences_name_only_what_differs():
    there, here = spec_of(), spec_of(layers=(1, 3), dim=8)
    assert there.differences(here) == "layers: (1, 2) there, (1, 3) here; dim: 4 there, 8 here"
    assert there.differences(spec_of()) == ""


def test_differences_of_many_rows_stay_short():
    assert len(spec_of(lengths=(7,) * 10_000).differences(spec_of())) < 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "bfloat61"}, "Did you mean 'bfloat16'"),
        ({"layers": ()}, "one or more different layers"),
        ({"layers": (2, 2)}, r"different layers, got \(2, 2\)"),
        ({"dim": 0}, "must be positive, got 0"),
        ({"shard_bytes": 0}, "must be positive, got 4 and 0"),
        ({"lengths": (1, -2)}, "cannot have -2 tokens"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        spec_of(**changes)


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec_of().dim = 3  # type: ignore[misc]
