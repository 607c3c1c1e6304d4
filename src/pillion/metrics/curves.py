"""Points of the curves that are drawn of probabilities: reliability, ROC, precision and recall.

Promises few points, whatever the number of rows; None where a curve is undefined. Draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.metrics import precision_recall_curve, roc_curve

MAX_POINTS = 200
NUM_BINS = 10

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Bin:
    """Rows whose probability lies between two tenths.

    Attributes:
        prob: their mean probability.
        share: of them that have the label.
        low: lower end of the 95 % interval of the share (Wilson 1927).
        high: upper end.
        rows: how many they are.
    """

    prob: float
    share: float
    low: float
    high: float
    rows: int


def reliability(probs: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"]) -> list[Bin]:
    """The bins of a reliability diagram that hold rows, from low to high.

    Args:
        probs: of one event a row.
        targets: one where it happened, else zero; NaN where not judged, which is left out.
    """
    probs, targets = _judged(probs, targets)
    places = np.minimum((probs * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins: list[Bin] = []
    for place in np.unique(places):
        inside = places == place
        rows, share = int(inside.sum()), float(targets[inside].mean())
        low, high = wilson(share, rows)
        bins.append(Bin(float(probs[inside].mean()), share, low, high, rows))
    return bins


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share of so many rows (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * np.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2) / (1 + z * z / rows)
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))


def share_interval(hits: int, rows: int) -> list[float] | None:
    """Ends of the interval of `wilson` around so many of so many rows; None for no row.

    Resamples of rows that are all alike would put both ends on the share itself.
    """
    if not rows:
        return None
    share = hits / rows
    low, high = wilson(share, rows)
    return [min(low, share), max(high, share)]  # rounding moves an end past 0 or 1


def roc_points(
    probs: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"]
) -> Points | None:
    """(false positive rate, true positive rate), rising; None for rows of one side only."""
    probs, targets = _judged(probs, targets)
    if not targets.any() or targets.all():
        return None
    fpr, tpr, _ = roc_curve(targets, probs)
    return _thinned(fpr, tpr)


def pr_points(
    probs: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"]
) -> Points | None:
    """(recall, precision), with rising recall; None for rows of one side only."""
    probs, targets = _judged(probs, targets)
    if not targets.any() or targets.all():
        return None
    precision, recall, _ = precision_recall_curve(targets, probs)
    return _thinned(recall[::-1], precision[::-1])


def _judged(probs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isnan(targets)
    return probs[known], targets[known]


def _thinned(x: np.ndarray, y: np.ndarray) -> Points:
    """At most `MAX_POINTS`, evenly by arc length, both ends among them."""
    if len(x) > MAX_POINTS:
        walked = np.append(0, np.cumsum(np.hypot(np.diff(x), np.diff(y))))
        wanted = np.linspace(0, walked[-1], MAX_POINTS)
        kept = np.unique(np.searchsorted(walked, wanted))
        x, y = x[kept], y[kept]
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
