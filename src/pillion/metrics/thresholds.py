"""Thresholds for one label, from probabilities and targets: at a rate, a precision, a cost, of F1.

A row is labelled if its probability is at least the threshold. Every function gives None where the
rows do not allow what is wanted. Does not know tasks or label names.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped

from pillion.metrics.calibration import fit_platt

MIN_PROB = 1e-7
"""Probabilities nearer to 0 or 1 than this are taken as this far away: fp32 tells no more."""

UNLIKELY = -1.0
"""In scores, where a row is not given the label whatever the threshold."""

LEAST_SPREAD = 1e-5
"""Logits nearer to each other than this are the same to the fit of a curve, which ends where it
began: at a slope that means nothing."""


def to_logits(probs: Float[np.ndarray, " *shape"]) -> Float[np.ndarray, " *shape"]:
    """`log(p / (1 - p))` in float64."""
    inside = np.clip(probs.astype(np.float64), MIN_PROB, 1 - MIN_PROB)
    return np.log(inside) - np.log1p(-inside)


def f1_threshold(
    probs: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"]
) -> float | None:
    """The threshold of best expected F1 under a logistic curve through the rows.

    Of probabilities that are right, those from half the best F1 on should be labelled (Lipton,
    Elkan and Naryanaswamy 2014). The curve has two parameters: with few rows that is steadier than
    to take the best of all thresholds (`docs/log.md`).

    Args:
        probs: probability of the label, one a row.
        targets: one where the row has the label, else zero.
    """
    curve = _LogisticCurve.through(probs, targets)
    if curve is None:
        return None
    right = np.sort(curve.levels(probs))[::-1]
    expected = 2 * right.cumsum() / (np.arange(1, len(right) + 1) + right.sum())
    return curve.threshold(float(expected.max()) / 2)


def level_threshold(
    probs: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"], level: float
) -> float | None:
    """The probability at which a share `level` of the rows has the label, by a logistic curve.

    With costs of false positives and negatives, `cost_fp / (cost_fp + cost_fn)` is the level of
    least cost (Elkan 2001). Other arguments are those of `f1_threshold`.
    """
    curve = _LogisticCurve.through(probs, targets)
    return None if curve is None else curve.threshold(level)


def fpr_threshold(
    probs: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"], limit: float
) -> float | None:
    """The lowest threshold whose false positive rate on new rows is at most `limit` on average.

    That is the case if `(false positives + 1) / (negatives + 1) <= limit` on these rows, for new
    ones drawn like them (Vovk, Gammerman and Shafer 2005); with fewer than `1 / limit - 1`
    negatives there is none. Other arguments are those of `f1_threshold`.
    """
    negatives = np.sort(probs[targets == 0].astype(np.float64))[::-1]
    # One more in a million than said is a rounding of `limit * (n + 1)`, not a row.
    allowed = int(np.floor(limit * (len(negatives) + 1) + 1e-6)) - 1
    if allowed < 0:
        return None
    if allowed >= len(negatives):
        return 0.0
    return _above(float(negatives[allowed]), probs.astype(np.float64))


def fnr_threshold(
    probs: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"], limit: float
) -> float | None:
    """The highest threshold whose false negative rate is at most `limit`; see `fpr_threshold`."""
    turned = fpr_threshold(1 - probs.astype(np.float64), 1 - targets, limit)
    return None if turned is None else 1 - turned


def precision_threshold(
    probs: Float[np.ndarray, " row"], targets: Shaped[np.ndarray, " row"], wanted: float
) -> float | None:
    """The lowest threshold with a precision of at least `wanted`, if one more row were wrong.

    The row too many keeps a handful of rows that happen to be right from being enough. Other
    arguments are those of `f1_threshold`.
    """
    scores = probs.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], targets[order].cumsum()
    last_of_equals = np.append(ranked[1:] < ranked[:-1], True)
    fits = (
        (ranked > UNLIKELY)
        & last_of_equals
        & (found / (np.arange(1, len(ranked) + 1) + 1) >= wanted)
    )
    if not fits.any():
        return None
    place = int(np.flatnonzero(fits)[-1])
    below = float(ranked[place + 1]) if place + 1 < len(ranked) else 0.0
    return _between(max(below, 0.0), float(ranked[place]))


class _LogisticCurve:
    """A logistic curve from the logit of a probability to the share of rows with the label."""

    def __init__(self, scale: float, offset: float) -> None:
        self.scale, self.offset = scale, offset

    @classmethod
    def through(cls, probs: np.ndarray, targets: np.ndarray) -> _LogisticCurve | None:
        """None without rows of both sides, or where those with the label score no higher."""
        logits = to_logits(probs)
        if not targets.any() or targets.all() or np.ptp(logits) < LEAST_SPREAD:
            return None
        scale, offset = fit_platt(logits, targets)
        return cls(scale, offset) if scale > 0 else None

    def levels(self, probs: np.ndarray) -> np.ndarray:
        return _sigmoid(self.scale * to_logits(probs) + self.offset)

    def threshold(self, level: float) -> float:
        # Not by `to_logits`: a level is no probability of fp32, and costs may ask for 1e-12.
        logit = np.log(level) - np.log1p(-level)
        return float(_sigmoid(np.array([(logit - self.offset) / self.scale]))[0])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def _above(score: float, scores: np.ndarray) -> float | None:
    """A threshold between a score and the next higher one, or one."""
    higher = scores[scores > score]
    if score >= 1:
        return None
    return _between(max(score, 0.0), float(higher.min(initial=1.0)))


def _between(below: float, above: float) -> float:
    """Midway, so that rounding moves no row across; the upper one where nothing lies between."""
    middle = (below + above) / 2
    return middle if middle > below else above
