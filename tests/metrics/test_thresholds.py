"""Thresholds at a rate, a precision, a cost and of F1; and the fits of calibration behind them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pillion.errors import DataError
from pillion.metrics.calibration import fit_isotonic, fit_platt, fit_temperature
from pillion.metrics.thresholds import (
    f1_threshold,
    fnr_threshold,
    fpr_threshold,
    level_threshold,
    precision_threshold,
    to_logits,
)


def drawn(
    rows: int, rng: np.random.Generator, share: float = 0.15, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right for `scale` 1 (else too sure), and targets drawn by them."""
    targets = (rng.random(rows) < share).astype(np.int64)
    # Normal logits of equal spread: the log-odds of a row are linear in its score.
    score = rng.normal(size=rows) * 2 + np.where(targets, 2.0, -2.0)
    logits = score + np.log(share / (1 - share))
    return 1 / (1 + np.exp(-scale * logits)), targets


def f1(threshold: float, probs: np.ndarray, targets: np.ndarray) -> float:
    chosen = probs >= threshold
    return float(2 * (chosen & (targets == 1)).sum() / (chosen.sum() + targets.sum()))


def test_a_target_false_positive_rate_holds_on_average_over_new_rows() -> None:
    rng = np.random.default_rng(0)
    rates: list[float] = []
    for _ in range(400):
        probs, targets = drawn(120, rng)
        new, new_targets = drawn(400, rng)
        line = fpr_threshold(probs, targets, 0.05)
        assert line is not None
        rates.append(float((new[new_targets == 0] >= line).mean()))
    assert np.mean(rates) <= 0.05
    assert np.mean(rates) > 0.03  # and it is not bought by deciding for nothing


def test_a_target_false_negative_rate_holds_on_average_over_new_rows() -> None:
    rng = np.random.default_rng(0)
    rates: list[float] = []
    for _ in range(400):
        probs, targets = drawn(120, rng, share=0.5)
        new, new_targets = drawn(400, rng, share=0.5)
        line = fnr_threshold(probs, targets, 0.1)
        assert line is not None
        rates.append(float((new[new_targets == 1] < line).mean()))
    assert 0.07 < np.mean(rates) <= 0.1


def test_too_few_rows_for_a_rate_give_no_threshold() -> None:
    probs, targets = np.linspace(0.01, 0.9, 20), np.repeat([0, 1], [18, 2])
    assert fpr_threshold(probs, targets, 0.05) is None  # takes 19 negatives
    assert fpr_threshold(probs, targets, 0.06) is not None
    assert fnr_threshold(probs, targets, 0.3) is None
    certain = np.ones(20)
    assert fpr_threshold(certain, np.zeros(20, dtype=np.int64), 0.06) is None


def test_a_threshold_at_a_rate_lies_between_scores_and_ties_count_as_one() -> None:
    probs = np.array([0.9, 0.8, 0.8, 0.2, 0.1])
    targets = np.array([1, 0, 0, 0, 0])
    assert fpr_threshold(probs, targets, 0.2) == pytest.approx(0.85)  # no false positive allowed
    assert fpr_threshold(probs, targets, 0.4) == pytest.approx(0.85)  # one: the tie has two
    assert fpr_threshold(probs, targets, 0.6) == pytest.approx(0.5)
    assert fpr_threshold(probs, targets, 0.99) == pytest.approx(0.15)


def test_a_target_precision_counts_one_wrong_row_more() -> None:
    probs = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    targets = np.array([1, 1, 1, 0, 1, 0])
    assert precision_threshold(probs, targets, 0.75) == pytest.approx(0.65)
    assert precision_threshold(probs, targets, 0.66) == pytest.approx(0.45)
    assert precision_threshold(probs, targets, 0.9) is None


def test_the_f1_threshold_is_half_the_best_f1_where_probabilities_are_right() -> None:
    probs, targets = drawn(40000, np.random.default_rng(0))
    line = f1_threshold(probs, targets)
    assert line is not None
    best = max(f1(t, probs, targets) for t in np.linspace(0.05, 0.95, 181))
    assert line == pytest.approx(best / 2, abs=0.01)
    assert f1(line, probs, targets) > best - 0.003


def test_the_f1_threshold_is_where_the_curve_reaches_half_the_best_expected_f1() -> None:
    probs, targets = drawn(23, np.random.default_rng(1), share=0.4)
    scale, offset = fit_platt(to_logits(probs), targets)
    levels = sorted(1 / (1 + np.exp(-(scale * to_logits(probs) + offset))), reverse=True)
    best = max(2 * sum(levels[:k]) / (k + sum(levels)) for k in range(1, 24))
    logit = (np.log(best / 2 / (1 - best / 2)) - offset) / scale
    assert f1_threshold(probs, targets) == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-9)


def test_the_f1_threshold_follows_probabilities_that_are_too_sure() -> None:
    """One half would be far off here, and half the best F1 of the rows as they are, too."""
    probs, targets = drawn(40000, np.random.default_rng(0), scale=4.0)
    line = f1_threshold(probs, targets)
    assert line is not None
    best = max(f1(t, probs, targets) for t in 1 / (1 + np.exp(-np.linspace(-9, 9, 181))))
    assert f1(line, probs, targets) > best - 0.003
    assert line < 0.4


def test_the_f1_threshold_of_few_rows_is_steadier_than_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    new, new_targets = drawn(20000, rng)
    steady: list[float] = []
    best: list[float] = []
    for _ in range(60):
        probs, targets = drawn(250, rng)
        line = f1_threshold(probs, targets)
        assert line is not None
        steady.append(f1(line, new, new_targets))
        tried = [f1(t, probs, targets) for t in probs]
        best.append(f1(probs[int(np.argmax(tried))], new, new_targets))
    assert np.mean(steady) > np.mean(best) + 0.003
    assert np.std(steady) < np.std(best)


def test_the_threshold_of_a_level_is_the_level_where_probabilities_are_right() -> None:
    probs, targets = drawn(40000, np.random.default_rng(0))
    assert level_threshold(probs, targets, 0.2) == pytest.approx(0.2, abs=0.02)
    sure, targets = drawn(40000, np.random.default_rng(0), scale=2.0)
    wanted = 1 / (1 + 4**2)  # odds of 1 : 4, squared
    assert level_threshold(sure, targets, 0.2) == pytest.approx(wanted, abs=0.01)


RULES: list[Callable[[np.ndarray, np.ndarray], float | None]] = [
    f1_threshold,
    lambda probs, targets: level_threshold(probs, targets, 0.2),
]


@pytest.mark.parametrize("rule", RULES)
def test_rows_of_one_side_or_the_wrong_way_round_give_no_threshold(
    rule: Callable[[np.ndarray, np.ndarray], float | None],
) -> None:
    probs, targets = drawn(200, np.random.default_rng(0))
    assert rule(probs, np.zeros(200, dtype=np.int64)) is None
    assert rule(probs, np.ones(200, dtype=np.int64)) is None
    assert rule(1 - probs, targets) is None


@pytest.mark.parametrize("rule", RULES)
def test_perfectly_separated_rows_give_a_threshold_between_them(
    rule: Callable[[np.ndarray, np.ndarray], float | None],
) -> None:
    line = rule(np.repeat([0.01, 0.99], 50), np.repeat([0, 1], 50))
    assert line is not None and 0.01 < line < 0.99


def test_a_temperature_undoes_the_scale_of_the_logits() -> None:
    probs, targets = drawn(20000, np.random.default_rng(0), scale=3.0)
    assert fit_temperature(to_logits(probs)[:, None], targets) == pytest.approx(1 / 3, rel=0.1)
    rng = np.random.default_rng(0)
    ids = rng.integers(3, size=20000)
    # Unit normals about the label's own corner: the posterior's logits are 2 x the score.
    logits = rng.normal(size=(20000, 3)) + 2 * np.eye(3)[ids]
    assert fit_temperature(logits, ids) == pytest.approx(2, rel=0.1)


def test_a_temperature_needs_no_row_of_every_label() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(4, size=500)
    logits = rng.normal(size=(500, 5)) + 2 * np.eye(5)[ids]
    assert fit_temperature(logits, ids) > 0
    with pytest.raises(DataError, match="All rows agree"):
        fit_temperature(logits, np.zeros(500, dtype=np.int64))


def test_platt_and_isotonic_fits_follow_the_rows() -> None:
    probs, targets = drawn(20000, np.random.default_rng(0), scale=2.0)
    scale, offset = fit_platt(to_logits(probs), targets)
    assert scale == pytest.approx(0.5, rel=0.1)
    assert offset == pytest.approx(0, abs=0.1)
    x, y = fit_isotonic(to_logits(probs), targets)
    assert list(x) == sorted(set(x)) and list(y) == sorted(y)
    line = np.interp(to_logits(probs), x, y)
    assert line.mean() == pytest.approx(targets.mean(), abs=1e-9)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_rows_of_one_side_cannot_be_calibrated(fit: Callable[..., object]) -> None:
    with pytest.raises(DataError, match="All rows agree"):
        fit(np.arange(4.0), np.ones(4, dtype=np.int64))


def test_the_logit_of_zero_and_one_is_finite() -> None:
    assert np.isfinite(to_logits(np.array([0.0, 1.0]))).all()


def test_a_limit_of_one_takes_every_row_and_above_the_highest_wrong_one_is_room() -> None:
    probs, targets = np.array([0.9, 0.6, 0.3]), np.array([0, 1, 0])
    assert fpr_threshold(probs, targets, 1.0) == 0.0
    assert fpr_threshold(probs, targets, 0.34) == pytest.approx(0.95)
    assert fpr_threshold(probs, targets, 0.67) == pytest.approx(0.45)


def test_a_false_negative_rate_is_a_false_positive_rate_turned_round() -> None:
    probs = np.array([0.1, 0.2, 0.2, 0.8, 0.9])
    targets = np.array([0, 1, 1, 1, 1])
    assert fnr_threshold(probs, targets, 0.2) == pytest.approx(0.15)
    assert fnr_threshold(probs, targets, 0.6) == pytest.approx(0.5)
    assert fnr_threshold(probs, targets, 0.99) == pytest.approx(0.85)
    assert fnr_threshold(probs, targets, 0.19) is None


def test_between_neighbouring_numbers_the_line_is_the_upper_one() -> None:
    low = 0.5
    for _ in range(2):  # midway is rounded to the even one of them
        high = np.nextafter(low, 1.0)
        line = fpr_threshold(np.array([low, high]), np.array([0, 1]), 0.5)
        assert line == high
        low = high


def test_a_precision_is_of_all_rows_of_one_score_and_may_take_every_row() -> None:
    tied, targets = np.array([0.9, 0.8, 0.8]), np.array([1, 1, 0])
    assert precision_threshold(tied, targets, 0.6) is None
    assert precision_threshold(tied, targets, 0.5) == pytest.approx(0.4)
    last = np.array([0.8, 0.6, 0.6]), np.array([1, 1, 1])
    assert precision_threshold(*last, 0.75) == pytest.approx(0.3)


@pytest.mark.parametrize("rule", RULES)
def test_rows_that_all_score_the_same_give_no_threshold(
    rule: Callable[[np.ndarray, np.ndarray], float | None],
) -> None:
    assert rule(np.full(20, 0.5), np.repeat([0, 1], 10)) is None


def test_a_label_of_no_row_does_not_move_the_temperature() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(3, size=400)
    logits = rng.normal(size=(400, 3)) + 2 * np.eye(3)[ids]
    # A fourth label that is never likely, and that no row has.
    wide = np.concatenate([logits, np.full((400, 1), -60.0)], 1)
    assert fit_temperature(wide, ids) == pytest.approx(fit_temperature(logits, ids), rel=1e-5)
