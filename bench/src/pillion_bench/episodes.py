"""Episodes: a few rows of a few labels to learn from, drawn anew each time.

Promises the same episode for the same rows and seed, and within an episode the same labels for
every number of rows, so that a curve over it is of one task. Does not know methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, Shaped

from pillion.data import LabelSpace, split_validation
from pillion.errors import ConfigError, DataError
from pillion_bench.problem import Part, Problem

MOST_QUERIES = 200
"""Rows that an episode asks about, at most: what it varies by are the rows that it learns from."""


@dataclass(frozen=True)
class EpisodeSettings:
    """How episodes are drawn.

    Attributes:
        count: of episodes.
        shots: rows of each label that are learnt from; each number is a run of its own.
        ways: labels of an episode, drawn among those that have as many rows; None for all.
    """

    count: int = 20
    shots: tuple[int, ...] = (2, 4, 8, 16, 32)
    ways: int | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigError(
                f"Got {self.count} episodes; give two or more, an interval is drawn over them."
            )
        if not self.shots or min(self.shots) < 2:
            raise ConfigError(
                f"Got {self.shots} rows a label; give numbers of 2 or more: one row teaches and "
                "one chooses."
            )
        if self.ways is not None and self.ways < 2:
            raise ConfigError(f"Got {self.ways} labels an episode; give two or more.")


def episode_problem(problem: Problem, settings: EpisodeSettings, shots: int, seed: int) -> Problem:
    """The problem of one episode.

    Its test rows are those that numbers are of: rows of the data set's test in a locked run, else
    of its validation, of the drawn labels alone. Of the rows that it learns from a quarter (a half
    where there are fewer than four a label) are its validation rows; a method with `refit` learns
    from them all.

    Args:
        problem: the data set.
        settings: how episodes are drawn.
        shots: rows a label.
        seed: of the draw: the number of the episode.

    Raises:
        DataError: a label has fewer rows than the most that are asked for.
        ConfigError: more labels are asked for than there are.
    """
    names, train = problem.space.names, problem.train
    random = np.random.default_rng(seed)
    has = _has(train.targets, len(names))
    labels = _labels(has, settings, names, random)
    own = has[:, labels]
    if problem.task == "multilabel":  # rows of none of the labels are as many, as far as there are
        own = np.concatenate([own, ~own.any(1, keepdims=True)], axis=1)
    rows = _rows(own, random.permutation(len(train)), shots)
    learn, held = split_validation(
        _of_labels(train.targets[rows], labels), 0.25 if shots >= 4 else 0.5, seed
    )
    if not len(held):
        raise DataError(
            f"{problem.name}: no row of {len(rows)} can be held back for choices; ask for more "
            "rows a label."
        )
    asked = problem.test or problem.validation
    queries = np.arange(len(asked))
    if asked.targets.ndim == 1:
        queries = np.flatnonzero(np.isin(asked.targets, labels))
    queries = np.sort(random.permutation(queries)[:MOST_QUERIES])
    return replace(
        problem,
        space=LabelSpace(tuple(names[label] for label in labels), problem.task),
        train=_some(train, rows[learn], labels),
        validation=replace(_some(train, rows[held], labels), name="validation"),
        test=replace(_some(asked, queries, labels), name="test"),
    )


def _labels(
    has: Bool[np.ndarray, "row label"],
    settings: EpisodeSettings,
    names: Sequence[str],
    random: np.random.Generator,
) -> Int[np.ndarray, " way"]:
    """The labels of an episode, ascending."""
    counts, most = has.sum(0), max(settings.shots)
    if settings.ways is None:
        fewest = int(counts.argmin())
        if counts[fewest] < most:
            raise DataError(
                f"Label {names[fewest]!r} has {counts[fewest]} training rows, and an episode wants "
                f"{most} of each label; ask for fewer rows, or for fewer labels an episode."
            )
        return np.arange(len(names))
    if settings.ways > len(names):
        raise ConfigError(
            f"An episode wants {settings.ways} labels and there are {len(names)}; ask for fewer."
        )
    enough = np.flatnonzero(counts >= most)
    if len(enough) < settings.ways:
        raise DataError(
            f"Only {len(enough)} labels have {most} training rows, and an episode wants "
            f"{settings.ways} such labels; ask for fewer of either."
        )
    return np.sort(random.permutation(enough)[: settings.ways])


def _rows(
    has: Bool[np.ndarray, "row way"], order: Int[np.ndarray, " row"], shots: int
) -> Int[np.ndarray, " some"]:
    """So many rows of each column, the rarest first; one of several counts for each of them."""
    taken: list[int] = []
    counts = np.zeros(has.shape[1], dtype=int)
    for label in np.argsort(has.sum(0), kind="stable"):
        for row in order[has[order, label]]:
            if counts[label] >= shots:
                break
            if row not in taken:
                taken.append(int(row))
                counts += has[row]
    return np.sort(np.array(taken))


def _has(targets: Shaped[np.ndarray, "row ..."], num_labels: int) -> Bool[np.ndarray, "row label"]:
    return targets > 0 if targets.ndim == 2 else targets[:, None] == np.arange(num_labels)


def _of_labels(
    targets: Shaped[np.ndarray, "row ..."], labels: Int[np.ndarray, " way"]
) -> Shaped[np.ndarray, "row ..."]:
    """Targets as those of the drawn labels alone."""
    if targets.ndim == 2:
        return targets[:, labels]
    return np.searchsorted(labels, targets).astype(targets.dtype)


def _some(part: Part, rows: Int[np.ndarray, " some"], labels: Int[np.ndarray, " way"]) -> Part:
    return replace(
        part,
        texts=tuple(part.texts[row] for row in rows),
        targets=_of_labels(part.targets[rows], labels),
        row_ids=part.row_ids[rows],
    )
