"""The labels of a task, in order, and the ids that stand for them.

Promises that the same labels give the same order and that an id is the place in `names`.
Does not know texts, files or probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from pillion.data.judged_labels import JudgedLabels, Label, SoftLabels, judged, names_of
from pillion.errors import ConfigError, DataError, unknown_name

Task = Literal["binary", "multiclass", "multilabel"]

# How the negative of two labels is usually called, in lower case with spaces for hyphens and
# underscores.
USUAL_NEGATIVES = frozenset(
    {"negative", "neg", "no", "n", "none", "false", "0", "0.0"}
    | {"safe", "benign", "harmless", "clean", "normal", "ok", "ham", "nontoxic"}
)
_NEGATING = ("not ", "non ", "no ")
_NUM_NAMED = 5


@dataclass(frozen=True)
class LabelSpace:
    """The names of a task's labels; a label's id is its place among them.

    Attributes:
        names: (negative, positive) for binary, else sorted.
        task: `binary` (two labels, one a row), `multiclass` (more, one a row), or `multilabel` (any
            number a row).

    Raises:
        ConfigError: names that are not unique, or not as many as the task needs.
    """

    names: tuple[str, ...]
    task: Task

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"Label names are not unique ({self.names}); name each label once.")
        fits = len(self.names) == 2 if self.task == "binary" else len(self.names) >= 2
        if not fits:
            wanted = "two" if self.task == "binary" else "at least two"
            raise ConfigError(
                f"Got {len(self.names)} label names for a {self.task} task; give {wanted}."
            )

    @classmethod
    def of(
        cls, labels: Sequence[Label], positive: str | None = None, several: bool = False
    ) -> LabelSpace:
        """The label space that holds these labels.

        Tuples make it multi-label, unless each has exactly one name; marks always do, unless they
        are probabilities of two labels that add to one. Two labels
        are binary: the positive one is `positive`, else the one beside a usual negative (`no`,
        `safe`, `not toxic`, ...), else the second in sorted order.

        Args:
            labels: one a row, as in `Rows`.
            positive: name of the positive label, for binary only.
            several: whether a row may have any number of labels, though each has one.

        Raises:
            DataError: fewer than two different labels.
            ConfigError: `positive` is not one of the labels, or there are not two.
        """
        names = sorted({name for label in labels for name in judged(label)})
        if len(names) < 2:
            found = f"only {names[0]!r}" if names else "none"
            raise DataError(
                f"Wanted labels to tell apart, got {found}; a probe needs at least two."
            )
        soft = any(isinstance(one, SoftLabels) for one in labels) and len(names) > 2
        if several or soft or not all(_names_one(one) for one in labels):
            task: Task = "multilabel"
        else:
            task = "binary" if len(names) == 2 else "multiclass"
        if positive is not None:
            _check_positive(positive, names, task)
        if task == "binary":
            names = _ordered_pair(names, positive)
        return cls(tuple(names), task)

    def encode(
        self, labels: Sequence[Label], numbers: Sequence[int] | None = None
    ) -> Shaped[np.ndarray, "row ..."]:
        """The labels as ids.

        Args:
            labels: one a row, as in `Rows`; a tuple of one name counts as that name and the other
                way round.
            numbers: of the rows, for errors; None: 1, 2, ...

        Returns:
            int64 (row,) for binary and multi-class; float32 (row, label) of 0 and 1 for
            multi-label, NaN where not judged.

        Raises:
            DataError: a name that is not in this space, or a row without exactly one label where
                one is needed.
        """
        rows = [self._names_of(label) for label in labels]
        own = numbers or range(1, len(rows) + 1)
        self._check_names([judged(label) for label in labels], own)
        ids = {name: label_id for label_id, name in enumerate(self.names)}
        if self.task != "multilabel":
            self._check_single(rows, own)
            return np.array([ids[row[0]] for row in rows], dtype=np.int64)
        encoded = np.zeros((len(rows), len(self.names)), dtype=np.float32)
        for row_id, row in enumerate(rows):
            if isinstance(row, JudgedLabels):
                encoded[row_id] = np.nan
                encoded[row_id, [ids[name] for name in row.lacks]] = 0
            encoded[row_id, [ids[name] for name in row]] = 1
        return encoded

    def _names_of(self, label: Label) -> tuple[str, ...]:
        """The names that a row has; of two equally probable ones the positive one is."""
        if self.task != "binary" or not isinstance(label, SoftLabels) or not label.is_pair:
            return names_of(label)
        return (self.names[int(label.probs.get(self.names[1], 0) >= 0.5)],)

    def goals(self, labels: Sequence[Label]) -> Float[np.ndarray, "row ..."] | None:
        """What the loss compares with: probabilities; None where labels are no probabilities.

        Args:
            labels: that can be encoded.

        Returns:
            float32 (row,) of the positive label for binary; (row, label) for multi-label, NaN where
            not judged.
        """
        if not any(isinstance(label, SoftLabels) for label in labels):
            return None
        found = self.encode(labels).astype(np.float32)
        for row, label in enumerate(labels):
            for name, value in label.probs.items() if isinstance(label, SoftLabels) else ():
                if self.task == "multilabel":
                    found[row, self.names.index(name)] = value
                elif name == self.names[1]:
                    found[row] = value
        return found

    def _check_names(self, rows: Iterable[tuple[str, ...]], numbers: Sequence[int]) -> None:
        known = set(self.names)
        first_rows: dict[str, int] = {}
        for number, row in zip(numbers, rows, strict=True):
            for name in row:
                if name not in known:
                    first_rows.setdefault(name, number)
        if first_rows:
            raise DataError(
                f"Got labels that were never seen: {_listed(list(first_rows))}, first in row "
                f"{min(first_rows.values())}; known: {_listed(self.names)}. "
                "Correct or remove these rows, or train with them."
            )

    def _check_single(self, rows: Iterable[tuple[str, ...]], numbers: Sequence[int]) -> None:
        for number, row in zip(numbers, rows, strict=True):
            if len(row) != 1:
                raise DataError(
                    f"Got {len(row)} labels in row {number}, but each row of a {self.task} task "
                    "has one; remove the row, or train a multi-label probe."
                )


def _names_one(label: Label) -> bool:
    """Whether a label says which one of all names its row has."""
    if isinstance(label, JudgedLabels):
        return isinstance(label, SoftLabels) and label.is_pair
    return len(names_of(label)) == 1


def _check_positive(positive: str, names: Sequence[str], task: Task) -> None:
    if task != "binary":
        raise ConfigError(
            f"Got {positive!r} as the positive label of a {task} task with {len(names)} labels; "
            "only two labels have a positive one: leave it out."
        )
    if positive not in names:
        raise unknown_name("positive label", positive, names)


def _ordered_pair(names: list[str], positive: str | None) -> list[str]:
    """The two sorted names as negative, positive."""
    negatives = [[name for name in names if name != positive]] if positive is not None else []
    plain = {name: name.lower().replace("-", " ").replace("_", " ") for name in names}
    negatives.append([name for name in names if plain[name] in USUAL_NEGATIVES])
    negatives.append([name for name in names if plain[name].startswith(_NEGATING)])
    for found in negatives:
        # Two usual negatives, such as `no` and `none`, decide nothing.
        if len(found) == 1:
            return sorted(names, key=lambda name: name != found[0])
    return names


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NUM_NAMED
    shown = ", ".join(repr(name) for name in names[:_NUM_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown
