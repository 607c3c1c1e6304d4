"""Wishes and scores at the edge: refused in a sentence, never a number that means nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pillion.backends.fake import FakeBackend
from pillion.errors import ConfigError, DataError
from pillion.evals import CalibrationSettings, ExitWish, Operating, calibrate, check_exit
from pillion.evals.conformal import fit_conformal
from pillion.metrics.thresholds import f1_threshold, level_threshold
from tiny_models import make_artefact

ROWS = 200
DATA: dict[str, Any] = {"sha256": "x", "path": "rows", "num_rows": ROWS}
TINY = 5e-324


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that say something of the labels, and these."""
    random = np.random.default_rng(seed)
    targets = (random.random(ROWS) < 0.4).astype(np.int64)
    return np.clip(0.3 + 0.3 * targets + 0.2 * random.standard_normal(ROWS), 0.01, 0.99), targets


@pytest.mark.parametrize("share", [0.0, TINY, 1e-300, 1e-17, 1.0, math.nan])
def test_shares_are_such_as_rows_can_show(share: float) -> None:
    """The rows that the least ones take were counted, to infinity: a traceback."""
    for name in ("target_fpr", "target_precision", "abstain_share"):
        with pytest.raises(ConfigError, match=name.partition("_")[0]):
            Operating(**{name: share})
    with pytest.raises(ConfigError, match="target-fnr is"):
        Operating(target_fpr=0.1, target_fnr=share)
    with pytest.raises(ConfigError, match="The coverage is"):
        CalibrationSettings(coverage=share)
    with pytest.raises(ConfigError, match="may differ is"):
        ExitWish(share)


def test_the_least_share_says_how_many_rows_it_takes() -> None:
    probs, targets = rows()
    card = make_artefact("p", FakeBackend().identity).card
    with pytest.raises(DataError, match="takes 999999999 rows"):
        calibrate_with(probs, targets, Operating(target_fpr=1e-9))
    with pytest.raises(DataError, match="rows to show"):
        check_exit(card.model_copy(update={"depths": (1,)}), ExitWish(1e-9), ROWS, None)


def calibrate_with(probs: np.ndarray, targets: np.ndarray, wanted: Operating) -> dict[str, Any]:
    artefact = make_artefact("p", FakeBackend().identity)
    settings = CalibrationSettings("none", wanted)
    return calibrate(artefact, probs[:, None], targets, settings, DATA)[1]


@pytest.mark.parametrize("cost", [0.0, TINY, 1e308, math.inf, math.nan, -1.0])
def test_costs_are_such_as_can_be_added_and_compared(cost: float) -> None:
    """Two of 1e308 were infinite together: a share of 0 in the place of one half."""
    for name in ("cost_fp", "cost_fn", "cost_escalation"):
        with pytest.raises(ConfigError, match="only their ratios count"):
            Operating(**{"cost_fp": 1.0, "cost_fn": 1.0, "cost_escalation": 0.1, name: cost})


def test_only_the_ratio_of_costs_counts_at_both_ends_of_their_range() -> None:
    probs, targets = rows()
    lines = [
        calibrate_with(probs, targets, Operating(cost_fp=cost, cost_fn=cost))["thresholds"][0]
        for cost in (1e-6, 1.0, 1e6)
    ]
    assert lines[0]["threshold"] == lines[1]["threshold"] == lines[2]["threshold"]


def test_a_steeper_ratio_of_costs_moves_the_threshold_further() -> None:
    """A share below 1e-7 was taken for 1e-7."""
    probs, targets = rows()
    asked = (1e-6, 1e-8, 1e-10, 1e-12)
    levels = [one for level in asked if (one := level_threshold(probs, targets, level)) is not None]
    assert len(levels) == len(asked) and levels == sorted(set(levels), reverse=True)


@pytest.mark.parametrize("score", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_scores_that_are_all_alike_choose_no_threshold(score: float, noise: float) -> None:
    """The slope of a curve through one point is nothing: 7e-62 labelled every row, 1.0 none."""
    _, targets = rows()
    probs = score + noise * np.random.default_rng(1).random(ROWS)
    assert f1_threshold(probs, targets) is None
    assert level_threshold(probs, targets, 0.5) is None
    with pytest.raises(DataError, match="score no higher"):
        calibrate_with(probs, targets, Operating(best_f1=True))


def test_scores_that_are_nearly_alike_but_told_apart_choose_one_between() -> None:
    _, targets = rows()
    probs = 0.3 + 1e-4 * targets
    threshold = f1_threshold(probs, targets)
    assert threshold is not None and 0.3 < threshold < 0.3001


@pytest.mark.parametrize("coverage", [0.9, 0.75, 0.5, 0.1, 0.004])
def test_sets_have_rows_enough_or_say_how_many_they_take(coverage: float) -> None:
    """9 rows passed for a coverage of 0.9, and 200 for one of 0.004, which MAPIE then refused."""
    random = np.random.default_rng(0)
    found: set[str] = set()
    for count in (1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 200, 260):
        probs, targets = random.random((count, 1)), np.arange(count) % 2
        try:
            assert 0 <= fit_conformal("binary", probs, targets, coverage).limit <= 1
            found.add("fitted")
        except DataError as error:
            assert "fitted" not in found and "rows or more" in str(error)
            found.add("refused")
    assert found == {"fitted", "refused"}


def test_ten_rows_are_enough_for_a_coverage_of_nine_tenths() -> None:
    probs, targets = np.linspace(0.05, 0.95, 10)[:, None], np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1])
    assert fit_conformal("binary", probs, targets, 0.9).coverage == 0.9


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_one_that_folds_can_be_drawn_with(seed: int) -> None:
    with pytest.raises(ConfigError, match="The seed is"):
        CalibrationSettings(seed=seed)
    with pytest.raises(ConfigError, match="The seed is"):
        ExitWish(0.01, seed=seed)
