"""Points of curves: what they are of, how few they are, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_curve, roc_curve

from pillion.metrics.curves import Points, pr_points, reliability, roc_points, wilson

PROBS = np.array([0.05, 0.1, 0.19, 0.55, 0.5, 1.0, 0.95, 0.3])
TARGETS = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, np.nan])


def many(rows: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random(rows) < 0.3).astype(np.float64)
    return 1 / (1 + np.exp(-rng.normal(size=rows) - 2 * targets)), targets


@pytest.mark.parametrize(
    ("hits", "rows"), [(0, 1), (1, 1), (3, 10), (0, 40), (40, 40), (999, 1000)]
)
def test_the_interval_of_a_share_is_scipys(hits: int, rows: int) -> None:
    wanted = binomtest(hits, rows).proportion_ci(0.95, "wilson")
    assert wilson(hits / rows, rows) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    low, high = wilson(hits / rows, rows)
    assert 0 <= low < high <= 1


def test_the_bins_of_reliability_are_tenths_that_hold_judged_rows() -> None:
    found = reliability(PROBS, TARGETS)
    assert [one.rows for one in found] == [1, 2, 2, 2]  # 1.0 is in the last tenth, 0.3 in none
    assert [one.prob for one in found] == pytest.approx([0.05, 0.145, 0.525, 0.975])
    assert [one.share for one in found] == [0.0, 0.5, 1.0, 0.5]
    assert [(one.low, one.high) for one in found] == [wilson(o.share, o.rows) for o in found]


def test_few_points_of_a_curve_are_all_of_scikit_learns() -> None:
    known = TARGETS[:-1], PROBS[:-1]
    fpr, tpr, _ = roc_curve(*known)
    precision, recall, _ = precision_recall_curve(*known)
    assert roc_points(PROBS, TARGETS) == list(zip(fpr.tolist(), tpr.tolist(), strict=True))
    found = pr_points(PROBS, TARGETS)
    assert found == list(zip(recall[::-1].tolist(), precision[::-1].tolist(), strict=True))
    assert found[0] == (0.0, 1.0) and found[-1][0] == 1.0


@pytest.mark.parametrize("curve", [roc_points, pr_points])
def test_rows_of_one_side_have_no_curve(curve: object) -> None:
    assert callable(curve)
    for targets in (np.zeros(8), np.ones(8), np.where(np.isnan(TARGETS), 0.0, np.nan)):
        assert curve(PROBS, targets) is None


@pytest.mark.parametrize("curve", [roc_points, pr_points])
def test_many_points_are_thinned_evenly_along_the_curve_and_keep_its_ends(curve: object) -> None:
    assert callable(curve)
    probs, targets = many()
    points: Points = curve(probs, targets)
    assert 100 < len(points) <= 200
    x, y = np.array(points).T
    assert (np.diff(x) >= 0).all() and (x[0], x[-1]) == (0.0, 1.0)
    if curve is roc_points:
        fpr, tpr, _ = roc_curve(targets, probs)
        every, kept = (np.hypot(*np.diff(one)) for one in ((fpr, tpr), (x, y)))
        assert kept.max() <= every.max() + every.sum() / 199
        assert points[0] == (0.0, 0.0) and points[-1] == (1.0, 1.0)
        assert set(points) <= set(zip(fpr.tolist(), tpr.tolist(), strict=True))


def test_a_curve_of_just_as_many_points_as_are_drawn_is_whole() -> None:
    targets = np.arange(199) % 2
    probs = np.linspace(0.9, 0.1, 199)
    fpr, _, _ = roc_curve(targets, probs)
    points = roc_points(probs, targets.astype(np.float64))
    assert points is not None and len(points) == len(fpr) == 200


def test_a_curve_of_one_point_more_is_thinned_and_keeps_its_last() -> None:
    targets = np.arange(200) % 2
    points = roc_points(np.linspace(0.9, 0.1, 200), targets.astype(np.float64))
    assert points is not None and len(points) < 201
    assert points[0] == (0.0, 0.0) and points[-1] == (1.0, 1.0)
    assert len(set(points)) == len(points)


def test_of_fewer_points_none_is_left_out_however_near_they_lie() -> None:
    probs, targets = many(170)
    precision, recall, _ = precision_recall_curve(targets, probs)
    points = pr_points(probs, targets)
    assert points == list(zip(recall[::-1].tolist(), precision[::-1].tolist(), strict=True))
    assert len(points) == 171
