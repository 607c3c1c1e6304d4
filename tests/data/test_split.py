"""Laws of the validation split: complete, disjoint, stratified, deterministic, no label lost."""

from __future__ import annotations

import numpy as np
import pytest

from pillion.data import split_validation
from pillion.errors import ConfigError, DataError

MULTILABEL = (np.random.default_rng(0).random((60, 4)) < (0.5, 0.3, 0.1, 0.04)).astype(np.float32)

CASES = {
    "two even classes": np.arange(100) % 2,
    "one rare class": np.array([0] * 95 + [1] * 5),
    "a class of one row": np.array([0] * 30 + [1] * 30 + [2]),
    "more classes than validation rows": np.arange(40) % 20,
    "classes of one row only": np.arange(7),
    "one row": np.array([0]),
    "two rows": np.array([0, 1]),
    "several labels a row": MULTILABEL,
    "no label in any row": np.zeros((20, 2), dtype=np.float32),
}


def labels_held(label_ids: np.ndarray) -> set[int]:
    if label_ids.ndim == 1:
        return set(label_ids.tolist())
    return set(np.flatnonzero(label_ids.any(axis=0)).tolist())


@pytest.mark.parametrize("label_ids", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_every_row_is_on_one_side_and_every_label_in_train(
    label_ids: np.ndarray, fraction: float
) -> None:
    train_ids, validation_ids = split_validation(label_ids, fraction)
    both = np.concatenate([train_ids, validation_ids])
    assert np.array_equal(np.sort(both), np.arange(len(label_ids)))
    assert labels_held(label_ids[train_ids]) == labels_held(label_ids)
    assert len(validation_ids) <= max(1, round(fraction * len(label_ids)))
    assert np.all(np.diff(train_ids) > 0)
    assert np.all(np.diff(validation_ids) > 0)


@pytest.mark.parametrize("label_ids", CASES.values(), ids=CASES.keys())
def test_the_same_seed_gives_the_same_split(label_ids: np.ndarray) -> None:
    first, second = (split_validation(label_ids, seed=4)[1] for _ in range(2))
    assert np.array_equal(first, second)


def test_another_seed_gives_another_split() -> None:
    label_ids = CASES["two even classes"]
    first, second = (split_validation(label_ids, seed=seed)[1] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_validation_holds_the_classes_in_their_shares() -> None:
    label_ids = np.array([0] * 80 + [1] * 20)
    _, validation_ids = split_validation(label_ids, 0.2)
    assert np.bincount(label_ids[validation_ids]).tolist() == [16, 4]


def test_a_class_of_one_row_does_not_disturb_the_others() -> None:
    label_ids = CASES["a class of one row"]
    _, validation_ids = split_validation(label_ids)
    assert np.bincount(label_ids[validation_ids]).tolist() == [3, 3]


def test_a_rare_label_of_several_is_in_validation_too() -> None:
    label_ids = np.zeros((100, 2), dtype=np.float32)
    label_ids[:, 0] = 1
    label_ids[:20, 1] = 1
    _, validation_ids = split_validation(label_ids)
    assert label_ids[validation_ids].sum(axis=0).tolist() == [10, 2]


def test_classes_of_one_row_leave_validation_empty() -> None:
    train_ids, validation_ids = split_validation(CASES["classes of one row only"])
    assert len(train_ids) == 7
    assert len(validation_ids) == 0


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 10.0])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction ="):
        split_validation(np.arange(4) % 2, fraction)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        split_validation(np.arange(0))
