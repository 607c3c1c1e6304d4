"""Which rows are trained on and which are held back for validation.

Promises the same split for the same label ids and seed, with every label still in the training
rows. Does not know texts or label names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Shaped

from pillion.errors import ConfigError, DataError


def split_validation(
    label_ids: Shaped[np.ndarray, "row ..."],
    fraction: float = 0.1,
    seed: int = 0,
    groups: Sequence[int] | np.ndarray | None = None,
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " validation"]]:
    """Row ids of the training and of the validation part, both ascending and together all rows.

    Stratified by label (multi-label: by each row's rarest label); where validation is too small to
    hold every label, drawn at random instead. The last row of a label is never held back, so
    validation may be smaller than asked for, and is empty where every label has one row.

    Args:
        label_ids: as `LabelSpace.encode` gives them.
        fraction: share of the rows for validation, between 0 and 1; with groups, of those.
        seed: of the draw.
        groups: a number a row; rows of one number stay together, on either side. None for none.

    Raises:
        ConfigError: `fraction` out of range.
        DataError: no rows.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"Got fraction = {fraction}; give a share between 0 and 1, such as 0.1.")
    num_rows = len(label_ids)
    if not num_rows:
        raise DataError("Got no rows to split; give at least one row.")
    # Rows that stay together are drawn as one, which has the labels of them all.
    _, group_ids = np.unique(np.arange(num_rows) if groups is None else groups, return_inverse=True)
    has_label = np.zeros((group_ids.max() + 1, _has_label(label_ids).shape[1]), dtype=bool)
    np.logical_or.at(has_label, group_ids, _has_label(label_ids))
    num_validation = max(1, round(fraction * len(has_label)))
    drawn = _draw(_strata(has_label), num_validation, seed)
    held = np.isin(group_ids, _keep_every_label(has_label, np.sort(drawn)))
    return np.flatnonzero(~held), np.flatnonzero(held)


def _has_label(label_ids: np.ndarray) -> Bool[np.ndarray, "row label"]:
    if label_ids.ndim == 2:
        return label_ids > 0
    return label_ids[:, None] == np.unique(label_ids)


def _strata(has_label: np.ndarray) -> Int[np.ndarray, " row"]:
    """The rarest label of each row; rows without one share a stratum of their own."""
    counts = has_label.sum(axis=0)
    num_rows, num_labels = has_label.shape
    rarity = np.where(has_label, counts, num_rows + 1)
    return np.where(has_label.any(axis=1), rarity.argmin(axis=1), num_labels)


def _draw(strata: np.ndarray, num_validation: int, seed: int) -> Int[np.ndarray, " validation"]:
    # Takes a second to import, and `--help` needs none of it.
    from sklearn.model_selection import train_test_split

    _, stratum_ids, counts = np.unique(strata, return_inverse=True, return_counts=True)
    # A stratum of one row cannot be on both sides.
    row_ids = np.flatnonzero(counts[stratum_ids] > 1)
    num_strata = int((counts > 1).sum())
    if 0 < num_strata <= num_validation <= len(row_ids) - num_strata:
        _, drawn = train_test_split(
            row_ids, test_size=num_validation, stratify=strata[row_ids], random_state=seed
        )
        return np.asarray(drawn)
    return np.random.default_rng(seed).permutation(len(strata))[:num_validation]


def _keep_every_label(
    has_label: np.ndarray, validation_ids: np.ndarray
) -> Int[np.ndarray, " validation"]:
    """The validation rows without those that hold a label which no training row has."""
    in_train = np.ones(len(has_label), dtype=bool)
    in_train[validation_ids] = False
    for label_id in range(has_label.shape[1]):
        holders = np.flatnonzero(has_label[:, label_id])
        if len(holders) and not in_train[holders].any():
            in_train[holders[0]] = True
    return np.flatnonzero(~in_train)
