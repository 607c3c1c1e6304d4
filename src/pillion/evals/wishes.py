"""What a calibration wants of the probe and the rows, checked before any pass over them.

Promises a sentence that names the label. Does not know probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Shaped

from pillion.errors import DataError
from pillion.evals.operating import Operating, never_decided, why_none
from pillion.probe import Card

LEAST_ROWS = 2
"""Rows of each side: one to fit a calibration on, one to try it on."""


def check_wishes(
    card: Card, targets: Shaped[np.ndarray, "row ..."], method: str, wanted: Operating
) -> None:
    """Refuses what these rows cannot show of this probe, or what it has no use for.

    Args:
        card: of the probe.
        targets: label ids, or 0/1 a label for a multi-label probe; NaN where it was not judged.
        method: of calibration.
        wanted: thresholds and bands.

    Raises:
        ConfigError: wishes that do not fit the task.
        DataError: a label without enough rows.
    """
    task = card.task
    wanted.check(task)
    if task == "multiclass":
        present = [card.labels[i] for i in np.unique(targets)]
        if method != "none" and len(present) < 2:
            raise DataError(
                f"All rows have the label {present.pop()!r}, so nothing can be calibrated; give "
                "rows of other labels too."
            )
        for name, _, without in _sides(card, targets):
            _check_rate(wanted.target_fpr, without, name, len(targets), False)
        if method in ("none", "temperature"):
            return
    for name, with_it, without in _sides(card, targets):
        if (method != "none" or wanted.rules) and min(with_it, without) < LEAST_ROWS:
            lacks = f"of {name!r}" if with_it <= without else _without(card, name)
            raise DataError(_too_few(lacks, min(with_it, without), method, bool(wanted.rules)))
        _check_rate(wanted.target_fpr, without, name, len(targets), False)
        _check_rate(wanted.target_fnr, with_it, name, len(targets), True)


def notes_of(
    card: Card, targets: np.ndarray, lines: Sequence[float] | None, path: str
) -> list[str]:
    """What these rows leave open of a label, in sentences.

    Args:
        card: of the probe.
        targets: label ids, or 0/1 a label.
        lines: thresholds that were chosen, one an output; None for none.
        path: what the rows are called.
    """
    lacking = [name for name, with_it, _ in _sides(card, targets) if not with_it]
    notes = [f"{path} has no row of {_listed(lacking)}: nothing of this is tried on it."]
    names = card.labels[1:] if card.task == "binary" else card.labels
    never = never_decided(card.task, lines or (), names) if lines else []
    notes.append(
        f"No threshold does for {_listed(never)} on these rows: the probe abstains wherever that "
        "is the likeliest label. Give more rows, or ask for less."
    )
    return [note for note, about in zip(notes, (lacking, never), strict=True) if about]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")


def _check_rate(limit: float | None, count: int, name: str, num_rows: int, lower: bool) -> None:
    """Refuses a rate that so many rows of one side cannot show."""
    if limit is not None and (count + 1) * limit < 1 - 1e-9:
        wanted = Operating(target_fpr=limit, target_fnr=limit if lower else None)
        raise DataError(why_none(wanted, name, num_rows, lower))


def _sides(card: Card, targets: np.ndarray) -> Iterator[tuple[str, int, int]]:
    """Of each output its label, and how many rows were judged to have it and not to."""
    names: Sequence[str] = card.labels[1:] if card.task == "binary" else card.labels
    many = card.task == "multiclass"
    truth = np.eye(len(names))[targets] if many else targets.reshape(-1, len(names))
    for place, name in enumerate(names):
        yield name, int((truth[:, place] == 1).sum()), int((truth[:, place] == 0).sum())


def _without(card: Card, name: str) -> str:
    return f"of {card.labels[0]!r}" if card.task == "binary" else f"without {name!r}"


def _too_few(lacks: str, rows: int, method: str, has_rule: bool) -> str:
    count = "no row" if rows == 0 else "1 row"
    what = f"the method {method}" if method != "none" else "a threshold"
    instead = "" if method == "none" or has_rule else ", or take the method none"
    return (
        f"The data have {count} {lacks}, and {what} needs {LEAST_ROWS} or more; give more such "
        f"rows{instead}."
    )
