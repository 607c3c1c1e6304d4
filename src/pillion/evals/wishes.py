"""What a calibration wants of the probe and the rows, checked before any pass over them.

Promises a sentence that names the label. Does not know probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Shaped

from pillion.errors import DataError
from pillion.evals.operating import Operating, why_none
from pillion.probe import Card

LEAST_ROWS = 2
"""Rows of each side: one to fit a calibration on, one to try it on."""


def check_wishes(
    card: Card, targets: Shaped[np.ndarray, "row ..."], method: str, wanted: Operating
) -> None:
    """Refuses what these rows cannot show of this probe, or what it has no use for.

    Args:
        card: of the probe.
        targets: label ids, or 0/1 a label for a multi-label probe; NaN where nobody judged.
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
        if method in ("none", "temperature"):
            return
    for name, with_it, without in _sides(card, targets):
        if (method != "none" or wanted.rules) and min(with_it, without) < LEAST_ROWS:
            lacks = f"of {name!r}" if with_it <= without else _without(card, name)
            raise DataError(_too_few(lacks, min(with_it, without), method, bool(wanted.rules)))
        for limit, count, lower in (
            (wanted.target_fpr, without, False),
            (wanted.target_fnr, with_it, True),
        ):
            if task != "multiclass" and limit is not None and (count + 1) * limit < 1 - 1e-9:
                raise DataError(why_none(wanted, name, len(targets), lower))


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
