"""How many rows hold each label, on either side of the split, and what of that is worth a word.

Promises counts and sentences, no text of a row. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from pillion.core import Text
from pillion.data.examples import flat_text, normalised
from pillion.data.judged_labels import JudgedLabels, Label, names_of
from pillion.data.labels import LabelSpace

FEW = 20
"""Training rows of a label below which a probe hardly learns it."""
_NUM_NAMED = 10


class LabelCount(NamedTuple):
    """Rows that have a label.

    Attributes:
        label: its name.
        train: rows to learn from.
        validation: rows that choose epoch and threshold.
    """

    label: str
    train: int
    validation: int


def label_counts(
    space: LabelSpace,
    training: Shaped[np.ndarray, "kept ..."],
    validation: Shaped[np.ndarray, "held ..."],
) -> tuple[LabelCount, ...]:
    """Rows of each label, in the order of the space.

    Args:
        space: of the labels.
        training: targets, as `LabelSpace.encode` gives them.
        validation: likewise.
    """
    sides = [_counts(space, targets) for targets in (training, validation)]
    return tuple(map(LabelCount, space.names, *sides))


def _counts(space: LabelSpace, targets: np.ndarray) -> list[int]:
    if space.task == "multilabel":
        return (targets > 0).sum(axis=0).tolist()
    return np.bincount(targets, minlength=len(space.names)).tolist()


def balance_notes(counts: Sequence[LabelCount]) -> list[str]:
    """What makes numbers of labels say little: few rows to learn from, none to validate on."""
    few = [f"{one.label!r} ({one.train})" for one in counts if one.train < FEW]
    unseen = [repr(one.label) for one in counts if not one.validation]
    notes: list[str] = []
    if few:
        notes.append(
            f"Labels with fewer than {FEW} training rows, which a probe hardly learns: "
            f"{_listed(few)}."
        )
    if unseen:
        notes.append(
            f"Validation has no row of {_listed(unseen)}: no threshold can be chosen for it, and "
            "metrics say nothing of it."
        )
    return notes


def conflict_notes(
    texts: Sequence[Text], labels: Sequence[Label], rows: Sequence[int]
) -> list[str]:
    """How many texts stand under different labels, with the rows of the first.

    Args:
        texts: one a row; case and white space do not tell them apart.
        labels: one a row.
        rows: numbers of the rows.
    """
    seen: dict[str, tuple[int, Label]] = {}
    found: dict[str, tuple[int, int]] = {}
    for text, label, row in zip(texts, labels, rows, strict=True):
        key = normalised(flat_text(text))
        first, own = seen.setdefault(key, (row, label))
        if _contradict(own, label):
            found.setdefault(key, (first, row))
    if not found:
        return []
    first, other = next(iter(found.values()))
    what = "text stands" if len(found) == 1 else "texts stand"
    return [f"{len(found):,} {what} under different labels, as in rows {first} and {other}."]


def _contradict(one: Label, other: Label) -> bool:
    """Whether rows of the same text cannot both be right."""
    if isinstance(one, JudgedLabels) and isinstance(other, JudgedLabels):
        # Compared on the labels for which both were judged.
        return bool({*one} & {*other.lacks} or {*other} & {*one.lacks})
    return {*names_of(one)} != {*names_of(other)}


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
