"""The bands that save most layers at a price of decisions that differ: cuts of sorted rows.

Pure functions of arrays. Each depth has one side of sure rows or two (surely not, surely so), each
side a cut. How likely a decision differs is a curve of how unsure the row is, so that a band keeps
its distance from the rows that do. The cuts are improved one at a time, each to its best, until
none moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from pillion.metrics.calibration import fit_platt
from pillion.metrics.thresholds import to_logits
from pillion.probe.decisions import Band
from pillion.probe.task import Task

PRICES = np.geomspace(20_000, 1, 36)
"""Of a decision that differs, in passes at full depth; from bands that hardly any row leaves by to
such that hardly any stays."""
MOST_ROUNDS = 4

Sides = Float[np.ndarray, "side row"]
"""How unsure each row is on each side of the decision, the smaller the surer; infinite for rows of
another side."""


@dataclass(frozen=True)
class DepthRows:
    """What is known of rows at every depth.

    Attributes:
        sides: of each depth.
        differs: how likely a row's decision there is another than at full depth.
        agree: whether a row leaves there whatever the bands.
        cost: of each depth, as a share of a whole pass.
    """

    sides: Sequence[Sides]
    differs: Float[np.ndarray, "depth row"]
    agree: Bool[np.ndarray, "depth row"]
    cost: Float[np.ndarray, " depth"]


def sides_of(
    task: Task, probs: Float[np.ndarray, "row output"], thresholds: Float[np.ndarray, " output"]
) -> Sides:
    """How unsure rows are at a depth.

    Binary: the probability below the threshold, and its complement above. Multi-class: what the
    largest lacks of 1. Multi-label: the output nearest to its threshold, as a share of the way from
    0 or 1.
    """
    if task == "binary":
        column, line = probs[:, 0], thresholds[0]
        below = np.where(column < line, column, np.inf)
        return np.stack([below, np.where(column >= line, 1 - column, np.inf)])
    if task == "multiclass":
        return 1 - probs.max(axis=1)[None]
    low = probs / np.maximum(thresholds, 1e-12)
    high = (1 - probs) / np.maximum(1 - thresholds, 1e-12)
    return np.where(probs < thresholds, low, high).max(axis=1)[None]


def cuts_as_bands(
    task: Task, cuts: Float[np.ndarray, " side"], thresholds: Float[np.ndarray, " output"]
) -> tuple[Band, ...]:
    """The bands outside of which rows leave that are less unsure than the cuts.

    A side by which no row leaves has the cut minus infinity.
    """
    cuts = np.where(np.isfinite(cuts), cuts, 0.0)
    if task == "binary":
        line = float(thresholds[0])
        return ((min(float(cuts[0]), line), max(float(1 - cuts[1]), line)),)
    if task == "multiclass":
        return ((0.0, max(float(1 - cuts[0]), 0.0)),) * len(thresholds)
    width = min(float(cuts[0]), 1.0)
    return tuple((float(width * line), float(1 - width * (1 - line))) for line in thresholds)


def likely_to_differ(sides: Sides, differs: Bool[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """How likely the decisions of rows differ: a logistic curve of how unsure they are, a side.

    Where it does not rise, or no row differs, all rows of a side are as likely.
    """
    found = np.zeros(len(differs))
    for unsure in sides:
        own = np.isfinite(unsure)
        count, some = int(differs[own].sum()), int(own.sum())
        found[own] = (count + 0.5) / (some + 1)
        if 0 < count < some:
            logits = to_logits(unsure[own])
            scale, offset = fit_platt(logits, differs[own])
            if scale > 0:
                found[own] = expit(scale * logits + offset)
    return found


def choose_bands(rows: DepthRows, price: float) -> list[Float[np.ndarray, " side"]]:
    """The cuts of every depth that save most layers, less the price of what likely differs.

    A side by which no row leaves has the cut minus infinity.
    """
    cuts = [np.full(len(one), -np.inf) for one in rows.sides]
    for _ in range(MOST_ROUNDS):
        before = [one.copy() for one in cuts]
        for place in reversed(range(len(rows.sides))):
            for side in range(len(rows.sides[place])):
                cuts[place][side] = _best_cut(rows, cuts, place, side, price)
        if all(np.array_equal(a, b) for a, b in zip(before, cuts, strict=True)):
            break
    return cuts


def _best_cut(
    rows: DepthRows, cuts: Sequence[np.ndarray], place: int, side: int, price: float
) -> float:
    """Where the surest rows of a side had best leave, as all other cuts stand."""
    left = _leaves(rows, cuts)
    left[place] = rows.agree[place]
    unsure = rows.sides[place][side]
    # Those of another side do not move this cut: each row is on one side alone.
    asked = np.isfinite(unsure) & (_first(left) > place)
    asked &= ~left[place]
    if not asked.any():
        return -np.inf
    depth = _first(left)[asked]
    cost = np.append(rows.cost, 1.0)
    differs = np.vstack([rows.differs, np.zeros_like(rows.differs[:1])])
    later = cost[depth] + price * differs[depth, np.flatnonzero(asked)]
    now = rows.cost[place] + price * rows.differs[place, asked]
    order = np.argsort(unsure[asked], kind="stable")
    keys, gains = unsure[asked][order], np.cumsum((later - now)[order])
    # A cut lies between two rows that differ.
    ends = np.append(keys[1:] > keys[:-1], True)
    gains = np.where(ends, gains, -np.inf)
    last = int(gains.argmax())
    if gains[last] <= 0:
        return -np.inf
    return float(keys[last] + keys[last + 1]) / 2 if last + 1 < len(keys) else _past(keys[last])


def _past(key: float) -> float:
    """Just beyond the least sure row."""
    return float(np.nextafter(key, np.inf)) + 1e-9


def _leaves(rows: DepthRows, cuts: Sequence[np.ndarray]) -> Bool[np.ndarray, "depth row"]:
    own = [(one < cut[:, None]).any(0) for one, cut in zip(rows.sides, cuts, strict=True)]
    return np.stack(own) | rows.agree


def _first(leaves: Bool[np.ndarray, "depth row"]) -> Int[np.ndarray, " row"]:
    """The first depth at which each row leaves; the number of depths for nowhere."""
    return np.where(leaves.any(0), leaves.argmax(0), len(leaves))
