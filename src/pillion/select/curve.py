"""The shape of a curve over layers: where it changes, and where it bends.

Pure arithmetic on a list of numbers. Gwak & Jung (KNIT 2025) read layers by the inflection points
and the relative change of the silhouette coefficient, without a formula for either; these are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

BEND = 0.1
"""Smallest bend of an inflection point, as a share of the curve's range."""


def relative_changes(curve: Sequence[float]) -> list[float | None]:
    """At each layer the step from the one below, divided by the curve's range; None at the first.

    Divided by the range, not by the value: silhouette coefficients pass through zero.
    """
    span = max(curve) - min(curve)
    steps = [later - earlier for earlier, later in pairwise(curve)]
    return [None, *(step / span if span > 0 else 0.0 for step in steps)]


def inflections(curve: Sequence[float]) -> list[int]:
    """Places where the curve bends most: where its slope changes, not where it is high.

    The bend at a place is the difference of the steps after and before it. A place is an inflection
    point where its bend is at least `BEND` of the curve's range and larger than those of both
    neighbours. The two ends have no bend.

    Args:
        curve: one number a layer, in their order.
    """
    if len(curve) < 3 or max(curve) == min(curve):
        return []
    span = max(curve) - min(curve)
    inner = range(1, len(curve) - 1)
    bends = [0.0, *(abs(curve[i + 1] - 2 * curve[i] + curve[i - 1]) for i in inner), 0.0]
    return [
        i
        for i in inner
        if bends[i] >= BEND * span and bends[i] > bends[i - 1] and bends[i] >= bends[i + 1]
    ]
