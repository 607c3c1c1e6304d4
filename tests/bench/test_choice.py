"""Settings are chosen by the leading metric, and a grid grows where its edge was chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pillion_bench.baselines.logistic import Goal, fit_logistic
from pillion_bench.choice import (
    FEW_ROWS,
    FOLDS,
    MOST_STEPS,
    WORTH,
    Quality,
    best_of,
    folds,
    is_at_edge,
    judges,
    log_loss,
    quality,
    together,
    widened,
)


def peak(at: float) -> object:
    def measure(value: float) -> Quality:
        return Quality(-abs(math.log10(value) - at), 1.0)

    return measure


def test_a_grid_grows_until_the_best_value_has_worse_ones_on_both_sides() -> None:
    for at, wanted in ((4, 1e4), (-2, 1e-2), (1, 10)):
        tried = widened((1.0, 10.0, 100.0), peak(at))  # type: ignore[arg-type]
        assert best_of(tried) == pytest.approx(wanted)
        assert not is_at_edge(tried)


def test_a_grid_that_has_no_end_is_bounded_and_its_edge_is_on_record() -> None:
    tried = widened((1.0, 10.0), peak(99))  # type: ignore[arg-type]
    assert len(tried) == 2 + MOST_STEPS and is_at_edge(tried)


def test_a_single_value_is_no_choice() -> None:
    tried = widened((3.0,), peak(99))  # type: ignore[arg-type]
    assert list(tried) == [3.0] and not is_at_edge(tried)


def test_equal_scores_are_told_apart_by_log_loss_but_do_not_widen_for_nothing() -> None:
    tried = widened((1.0, 10.0), lambda value: Quality(1.0, 1e-4 / value))
    assert best_of(tried) == 100.0 and len(tried) == 3


def test_the_score_is_the_metric_that_leads_at_its_own_threshold() -> None:
    probs, targets = np.array([[0.1], [0.2], [0.8], [0.9]]), np.array([0, 0, 1, 1])
    assert quality("f1", "binary", probs, targets).score == 1.0
    assert quality("auprc", "binary", probs, targets).score == 1.0
    nothing = quality("auprc", "binary", probs, np.zeros(4, dtype=int))
    assert nothing.score == -math.inf and math.isfinite(nothing.log_loss)


def test_the_model_that_is_used_is_the_one_that_was_judged() -> None:
    """The penalty was fitted once more from another start, and decided a few rows otherwise."""
    chance = np.random.default_rng(0)
    features = chance.normal(size=(1400, 30))
    ids = (features[:, :3].sum(1) + 3 * chance.normal(size=1400) > 0).astype(int)
    held = features[800:], ids[800:]
    model = fit_logistic((features[:800], ids[:800]), held, Goal("binary", 1, "auprc"), (0.1, 1.0))
    again = quality("auprc", "binary", model.predict(held[0]), held[1])
    assert again.score == model.quality.score
    assert again.log_loss == pytest.approx(model.quality.log_loss, abs=1e-6)


def test_folds_hold_every_row_back_once() -> None:
    held = np.concatenate([rows for _, rows in folds(23)])
    assert sorted(held) == list(range(23))
    assert all(not set(learn) & set(rows) for learn, rows in folds(23))
    parts = together([Quality(0.5, 1.0), Quality(0.7, 2.0)])
    assert (parts.score, parts.log_loss) == pytest.approx((0.6, 1.5))
    assert parts.spread == pytest.approx(0.1414, abs=1e-3)


@pytest.mark.parametrize(("held", "num_folds"), [(60, 5), (600, 1)])
def test_few_validation_rows_choose_by_folds_and_the_spread_is_said(
    held: int, num_folds: int
) -> None:
    chance = np.random.default_rng(0)
    features = chance.normal(size=(400 + held, 5))
    ids = (features[:, 0] + chance.normal(size=len(features)) > 0).astype(int)
    parts = (features[:400], ids[:400]), (features[400:], ids[400:])
    model = fit_logistic(*parts, Goal("binary", 1, "auprc"), (0.01, 1.0))
    facts = model.facts
    assert model.num_folds == num_folds
    assert all(("spread" in one) == (num_folds > 1) for one in facts["tried"].values())
    assert facts["chosen_by"].startswith("auprc of ")
    whole = fit_logistic(parts[0], parts[0], Goal("binary", 1, "auprc"), (model.strength,))
    np.testing.assert_allclose(model.predict(parts[1][0]), whole.predict(parts[1][0]), atol=2e-3)


def test_of_equals_the_smallest_value_is_the_best_and_an_undefined_score_is_the_worst() -> None:
    same = Quality(0.5, 1.0)
    assert best_of({10.0: same, 0.1: same, 1.0: same}) == 0.1
    assert best_of({1.0: Quality(-math.inf, 0.1), 2.0: Quality(0.0, 9.0)}) == 2.0
    assert best_of({1.0: Quality(0.5, 1.0), 2.0: Quality(0.5, 0.9)}) == 2.0


@pytest.mark.parametrize(("gain", "steps"), [(2 * WORTH, MOST_STEPS), (WORTH / 2, 1)])
def test_a_step_beyond_an_edge_is_worth_a_fall_of_log_loss(gain: float, steps: int) -> None:
    losses = iter(1 - gain * n for n in range(99))
    tried = widened((1.0, 10.0), lambda _: Quality(1.0, next(losses)))
    assert len(tried) == 2 + steps


def test_folds_without_a_score_have_no_spread_nor_has_one_set_of_rows() -> None:
    assert together([Quality(0.5, 1.0)]).spread is None
    undefined = together([Quality(-math.inf, 1.0), Quality(0.5, 3.0)])
    assert undefined.spread is None and undefined.score == -math.inf and undefined.log_loss == 2.0
    assert undefined.facts == {"score": None, "log_loss": 2.0}  # JSON has no infinity
    assert Quality(0.123456, 0.98765).facts == {"score": 0.1235, "log_loss": 0.9877}
    assert Quality(0.5, 1.0, 0.01).facts == {"score": 0.5, "spread": 0.01, "log_loss": 1.0}


@pytest.mark.parametrize(
    ("held", "rounds"), [(FOLDS - 1, 1), (FOLDS, FOLDS), (FEW_ROWS - 1, FOLDS), (FEW_ROWS, 1)]
)
def test_rows_are_judged_by_folds_where_they_are_few_but_enough_for_them(
    held: int, rounds: int
) -> None:
    found = judges(100, held)
    assert len(found) == rounds
    if rounds == 1:
        learn, judged = found[0]
        assert learn.tolist() == list(range(100))
        assert judged.tolist() == list(range(100, 100 + held))
    else:
        assert sorted(np.concatenate([rows for _, rows in found])) == list(range(100 + held))


def test_log_loss_is_in_nats_a_row_or_decision_and_finite_for_the_surest_mistake() -> None:
    probs = np.array([[0.25, 0.75], [0.5, 0.5]])
    assert log_loss(probs, np.array([1, 0]), "multiclass") == pytest.approx(
        -(math.log(0.75) + math.log(0.5)) / 2
    )
    marks = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert log_loss(probs, marks, "multilabel") == pytest.approx(
        -(2 * math.log(0.75) + 2 * math.log(0.5)) / 4
    )
    assert log_loss(np.array([[0.0]]), np.array([1]), "binary") == pytest.approx(-math.log(1e-7))
