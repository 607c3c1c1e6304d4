"""Sets of labelled texts that a method is asked about, one after the other as one long test.

Promises that each set's rows are found again in what was said of all. Knows no method.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from pillion.data import LabelSpace, Rows
from pillion.errors import DataError
from pillion.evals.real.texts import PERTURBATIONS, long_texts, perturbed

SHORT_WORDS = 40
"""Longest text that is hidden in a long one, in words."""


@dataclass(frozen=True, eq=False)
class TextSet:
    """Labelled texts of one kind.

    Attributes:
        step: `test`, `other`, `perturbation` or `long`.
        name: of the set.
        texts: one or more.
        targets: label ids.
        groups: a name for each text, by which the set is told apart; empty for none.
        rows: for changed texts, the test row that each was made of.
    """

    step: str
    name: str
    texts: tuple[str, ...]
    targets: Int[np.ndarray, " row"]
    groups: tuple[str, ...] = ()
    rows: Int[np.ndarray, " row"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.texts)


def other_set(name: str, rows: Rows, space: LabelSpace, groups: tuple[str, ...] = ()) -> TextSet:
    """Texts of another source, by the labels of the probe.

    For a binary probe two labels of other names are taken by their meaning: the positive one (as
    `LabelSpace.of` tells it) stands for the probe's positive label.

    Raises:
        DataError: labels that cannot be matched.
    """
    assert rows.labels is not None
    try:
        targets = space.encode(rows.labels)
    except DataError as error:
        own = LabelSpace.of(rows.labels)
        if space.task != "binary" or own.task != "binary":
            raise DataError(f"{name}: {error}") from error
        targets = own.encode(rows.labels)
    return TextSet("other", name, rows.plain_texts, targets, groups)


def perturbed_sets(
    texts: Sequence[str], targets: Int[np.ndarray, " row"], count: int, seed: int
) -> list[TextSet]:
    """Test texts changed in every way: as many with each label, as far as there are.

    Args:
        texts: of the test.
        targets: label ids.
        count: rows of each set, at most.
        seed: of the draw and of the changes.
    """
    rows = balanced_rows(targets, count, seed)
    drawn = [texts[int(row)] for row in rows]
    return [
        TextSet(
            "perturbation",
            name,
            tuple(perturbed(name, drawn, seed)),
            targets[rows],
            rows=rows,
        )
        for name in PERTURBATIONS
    ]


def long_sets(
    texts: Sequence[str],
    targets: Int[np.ndarray, " row"],
    words: Sequence[int],
    count: int,
    seed: int,
) -> list[TextSet]:
    """A short text with the positive label inside long benign text, and the same without it.

    Args:
        texts: of the test.
        targets: 0 or 1.
        words: lengths of the long texts.
        count: texts to hide, each at every length.
        seed: of the draws.

    Returns:
        A set a length; none where the test has no short positive texts, or no negative ones.
    """
    positive, negative = (np.flatnonzero(targets == label).tolist() for label in (1, 0))
    short = [i for i in positive if len(texts[i].split()) <= SHORT_WORDS]
    filler = [texts[i] for i in negative]
    if not short or not filler:
        return []
    chosen = random.Random(seed).sample(short, min(count, len(short)))
    found = long_texts([texts[i] for i in chosen], filler, words, seed)
    sets: list[TextSet] = []
    for length in words:
        own = [one for one in found if one.words == length]
        sets.append(
            TextSet(
                "long",
                f"{length} words",
                tuple(one.text for one in own),
                np.array([int(one.has_needle) for one in own]),
                tuple(one.place or "without" for one in own),
            )
        )
    return sets


def balanced_rows(
    targets: Int[np.ndarray, " row"], count: int, seed: int
) -> Int[np.ndarray, " some"]:
    """At most so many row ids, ascending, as many of each label as far as there are."""
    order = np.random.default_rng(seed).permutation(len(targets))
    taken: list[int] = []
    turns = [list(order[targets[order] == label]) for label in np.unique(targets)]
    while len(taken) < count and any(turns):
        for turn in turns:
            if turn and len(taken) < count:
                taken.append(int(turn.pop()))
    return np.sort(np.array(taken, dtype=np.int64))


def nested_rows(
    targets: Int[np.ndarray, " row"], smallest: int, seed: int
) -> list[Int[np.ndarray, " some"]]:
    """Sets of rows of 8, 16, 32, ... rows up to all, each inside the next.

    Every label of the data has a row in each, as far as the size allows; beyond that labels are as
    frequent as in the data.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(targets))
    first = [int(order[targets[order] == label][0]) for label in np.unique(targets)]
    second = [
        int(order[targets[order] == label][1:2][0])
        for label in np.unique(targets)
        if (targets == label).sum() > 1
    ]
    ahead = [*first, *second]
    whole = np.array([*ahead, *(row for row in order if row not in set(ahead))])
    sizes = []
    size = smallest
    while size < len(targets):
        sizes.append(size)
        size *= 2
    return [whole[:size] for size in (*sizes, len(targets))]
