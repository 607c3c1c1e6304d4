"""Sets of labelled texts that a method is asked about, one after the other as one long test.

Promises that each set's rows are found again in what was said of all. Knows no method.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from pillion.core import Scope, Text
from pillion.data import LabelSpace, Rows, said_in, with_words, words_in
from pillion.data.changes import PERTURBATIONS, perturbed
from pillion.errors import DataError
from pillion_bench.real.texts import long_texts

SHORT_WORDS = 40
"""Longest text that is hidden in a long one, in words."""


@dataclass(frozen=True, eq=False)
class TextSet:
    """Labelled texts of one kind.

    Attributes:
        step: `test`, `other`, `perturbation` or `long`.
        name: of the set.
        texts: one or more, as the model is shown them.
        said: of each, what the scope's turns say: that is what methods of texts read.
        targets: label ids.
        groups: a name for each text, by which the set is told apart; empty for none.
        rows: for changed texts, the test row that each was made of.
    """

    step: str
    name: str
    texts: tuple[Text, ...]
    said: tuple[str, ...]
    targets: Int[np.ndarray, " row"]
    groups: tuple[str, ...] = ()
    rows: Int[np.ndarray, " row"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(
        cls,
        step: str,
        name: str,
        texts: Sequence[Text],
        targets: Int[np.ndarray, " row"],
        scope: Scope,
        **others: Any,
    ) -> TextSet:
        """A set of texts, read by a scope.

        Raises:
            DataError: a text without a turn of the scope.
        """
        return cls(step, name, tuple(texts), said_by(texts, scope, name), targets, **others)

    def __len__(self) -> int:
        return len(self.texts)


def said_by(texts: Sequence[Text], scope: Scope, where: str) -> tuple[str, ...]:
    """What the scope's turns of each text say.

    Raises:
        DataError: a text without such a turn, by its row (from 1) and where it stands.
    """
    found: list[str] = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(said_in(text, scope))
        except DataError as error:
            raise DataError(f"{where}, row {number}: {error}") from error
    return tuple(found)


def other_set(
    name: str,
    rows: Rows,
    space: LabelSpace,
    groups: tuple[str, ...] = (),
    scope: Scope = "all",
) -> TextSet:
    """Texts of another source, by the labels of the probe.

    For a binary probe two labels of other names are taken by their meaning: the positive one (as
    `LabelSpace.of` tells it) stands for the probe's positive label.

    Raises:
        DataError: labels that cannot be matched, or a text without a turn of the scope.
    """
    assert rows.labels is not None
    try:
        targets = space.encode(rows.labels)
    except DataError as error:
        own = LabelSpace.of(rows.labels)
        if space.task != "binary" or own.task != "binary":
            raise DataError(f"{name}: {error}") from error
        targets = own.encode(rows.labels)
    return TextSet.of("other", name, rows.texts, targets, scope, groups=groups)


def perturbed_sets(
    texts: Sequence[Text],
    targets: Int[np.ndarray, " row"],
    count: int,
    seed: int,
    scope: Scope = "all",
) -> list[TextSet]:
    """Test texts changed in every way: as many with each label, as far as there are.

    Args:
        texts: of the test.
        targets: label ids.
        count: rows of each set, at most.
        seed: of the draw and of the changes.
        scope: whose turns are changed; the others stay as they are.
    """
    rows = balanced_rows(targets, count, seed)
    drawn = [texts[int(row)] for row in rows]
    words = [words_in(text, scope) for text in drawn]
    flat = [one for some in words for one in some]
    found: list[TextSet] = []
    for name in PERTURBATIONS:
        changed = iter(perturbed(name, flat, seed))
        made = [
            with_words(text, scope, [next(changed) for _ in some])
            for text, some in zip(drawn, words, strict=True)
        ]
        found.append(TextSet.of("perturbation", name, made, targets[rows], scope, rows=rows))
    return found


def long_sets(
    texts: Sequence[Text],
    targets: Int[np.ndarray, " row"],
    words: Sequence[int],
    count: int,
    seed: int,
    scope: Scope = "all",
) -> list[TextSet]:
    """A short text with the positive label inside long benign text, and the same without it.

    In conversations both take the place of the words that are read in a benign one.

    Args:
        texts: of the test; those whose scope has one turn are used.
        targets: 0 or 1.
        words: lengths of the long texts.
        count: texts to hide, each at every length.
        seed: of the draws.
        scope: whose words are read.

    Returns:
        A set a length; none where the test has no short positive texts, or no negative ones.
    """
    each = [words_in(text, scope) for text in texts]
    said = {row: own[0] for row, own in enumerate(each) if len(own) == 1}
    short = [row for row in said if targets[row] == 1 and len(said[row].split()) <= SHORT_WORDS]
    benign = [row for row in said if targets[row] == 0]
    if not short or not benign:
        return []
    chosen = random.Random(seed).sample(short, min(count, len(short)))
    found = long_texts([said[row] for row in chosen], [said[row] for row in benign], words, seed)
    sets: list[TextSet] = []
    for length in words:
        own = [one for one in found if one.words == length]
        # With a needle and without it, pair by pair, each pair around the same turns.
        around = [texts[benign[pair % len(benign)]] for pair in range(len(own) // 2)]
        made = [with_words(around[i // 2], scope, [one.text]) for i, one in enumerate(own)]
        has_needle = np.array([int(one.has_needle) for one in own])
        places = tuple(one.place or "without" for one in own)
        sets.append(TextSet.of("long", f"{length} words", made, has_needle, scope, groups=places))
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
