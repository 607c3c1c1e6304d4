"""Where a probe does not decide, and the set of labels that a text may have.

Pure functions of one row of probabilities. Does not know how bands and limits were chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from pillion.core.strict import Strict
from pillion.probe.task import Task

Band = tuple[float, float]
"""Probabilities from the first number up to, but without, the second."""


class Conformal(Strict):
    """How the set of labels that a text may have is made.

    Attributes:
        method: `lac`: the true label is in the set of at least `coverage` of the texts (Sadinle,
            Lei and Wasserman 2019); `recall`, for multi-label: the set holds at least `coverage` of
            a text's labels on average (Angelopoulos et al. 2022). Both hold on average over the
            rows that it was fitted on and texts drawn like them.
        coverage: the share that is promised.
        limit: the probability from which a label is in the set.
    """

    method: Literal["lac", "recall"]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    limit: Annotated[float, Field(ge=0, le=1)]


def abstains(task: Task, probs: Sequence[float], bands: Sequence[Band]) -> bool:
    """Whether a row is left undecided: the probability that decides it lies in its output's band.

    For multi-class the largest probability decides; for multi-label every one does, and one in its
    band leaves the row undecided.

    Args:
        task: what the probabilities mean.
        probs: one row of `probabilities`.
        bands: one an output.
    """
    if task == "multiclass":
        best = max(range(len(probs)), key=probs.__getitem__)
        probs, bands = probs[best : best + 1], bands[best : best + 1]
    return any(low <= prob < high for prob, (low, high) in zip(probs, bands, strict=True))


def prediction_set(probs: Mapping[str, float], conformal: Conformal) -> tuple[str, ...]:
    """The labels that a text may have, in the card's order.

    With `lac` the likeliest label always is among them: that can only add to the coverage, and no
    set is empty.

    Args:
        probs: label -> probability.
        conformal: of the card.
    """
    limit = conformal.limit
    if conformal.method == "lac":
        limit = min(limit, max(probs.values()))
    return tuple(label for label, prob in probs.items() if prob >= limit)
