"""Numbers of a calibration that can be worked out by hand, and the edges of what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import KFold, StratifiedKFold

from made_probes import LABELS, made_artefact
from pillion.errors import ConfigError, DataError
from pillion.evals import CalibrationSettings, Operating, calibrate, check_wishes
from pillion.evals.calibrate import _first_logit, apply, fit_calibration
from pillion.evals.comparison import compare
from pillion.metrics import evaluate, log_loss
from pillion.metrics.thresholds import to_logits
from pillion.probe.calibration import Isotonic

DATA = {"path": "rows.csv", "sha256": "m" * 64, "num_rows": 30}


def made(task: str, targets: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probabilities that know something of the targets and are too sure."""
    noise = np.random.default_rng(seed)
    if task == "multiclass":
        logits = 3 * noise.normal(size=(len(targets), 3)) + 2 * np.eye(3)[targets]
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wide = targets.reshape(len(targets), -1)
    return 1 / (1 + np.exp(-3 * noise.normal(size=wide.shape) - 2 * wide + 1))


def every(*counts: int) -> np.ndarray:
    """So many rows of each label."""
    return np.repeat(np.arange(len(counts)), counts)


PAIRS = np.stack([every(20, 10), every(12, 18)[::-1], np.arange(30) % 2], 1).astype(np.float32)


@pytest.mark.parametrize(
    ("task", "targets", "splitter"),
    [
        ("binary", every(20, 10), StratifiedKFold(5, shuffle=True, random_state=3)),
        ("binary", every(25, 5), StratifiedKFold(5, shuffle=True, random_state=3)),
        ("binary", every(26, 4), KFold(5, shuffle=True, random_state=3)),
        ("multiclass", every(20, 0, 10), StratifiedKFold(5, shuffle=True, random_state=3)),
        ("multiclass", every(20, 1, 9), KFold(5, shuffle=True, random_state=3)),
        ("multilabel", PAIRS, KFold(5, shuffle=True, random_state=3)),
        ("binary", np.array([0, 1, 0, 1]), KFold(4, shuffle=True, random_state=3)),
    ],
)
def test_each_row_is_told_by_the_calibration_of_the_other_four_fifths(
    task: Any, targets: np.ndarray, splitter: Any
) -> None:
    probs, names = made(task, targets), LABELS[task][task == "binary" :]
    logits = np.log(probs) if task == "multiclass" else to_logits(probs)
    unseen = np.empty_like(probs)
    stratified = isinstance(splitter, StratifiedKFold)
    for rest, held in splitter.split(logits, targets if stratified else None):
        fitted = fit_calibration(task, logits[rest], targets[rest], "temperature", names)
        unseen[held] = apply(task, fitted, logits[held])
    _, found = calibrate(
        made_artefact(task), probs, targets, CalibrationSettings("temperature", seed=3), DATA
    )
    wanted = evaluate(unseen, targets, task, names=("brier",))["brier"]
    assert found["comparison"]["new"]["brier"] == pytest.approx(wanted, abs=1e-12)
    assert found["comparison"]["new"]["log_loss"] == pytest.approx(log_loss(unseen, targets, task))


def test_without_a_seed_folds_are_those_of_the_first() -> None:
    assert CalibrationSettings() == CalibrationSettings("temperature", seed=0)


@pytest.mark.parametrize("sha", ["a" * 64, "z" * 64])
def test_a_calibration_on_other_rows_is_compared_with_the_one_before(sha: str) -> None:
    targets = every(40, 20)
    probs = made("binary", targets)
    settings = CalibrationSettings("platt")
    once, _ = calibrate(made_artefact("binary"), probs, targets, settings, {**DATA, "sha256": sha})
    now = apply("binary", once.card.calibration, to_logits(probs))
    _, other = calibrate(once, probs, targets, settings, DATA)
    assert other["comparison"]["present"]["log_loss"] == log_loss(now, targets, "binary")
    plain = log_loss(probs, targets, "binary")
    again = {**DATA, "sha256": "".join(sha)}  # equal, but not the same string
    _, same = calibrate(once, probs, targets, settings, again)
    assert same["comparison"]["present"]["log_loss"] == pytest.approx(plain)


def test_a_line_of_pieces_is_gone_back_to_the_lowest_logit() -> None:
    x, y = (-1.0, 0.0, 1.0, 3.0), (0.2, 0.5, 0.5, 0.9)
    least, most = to_logits(np.array([0.0, 1.0])).tolist()
    for prob, logit in (
        (0.1, least),
        (0.2, least),
        (0.35, -0.5),
        (0.5, 0.0),
        (0.6, 1.5),
        (0.9, 3.0),
        (0.95, most),
    ):
        assert _first_logit(prob, x, y) == pytest.approx(logit), prob


@pytest.mark.parametrize("line", [None, 0.05, 0.95])
def test_decisions_stay_where_no_threshold_is_said_or_it_is_beyond_the_knots(
    line: float | None,
) -> None:
    targets = every(40, 20)
    probs = made("binary", targets)
    thresholds = None if line is None else (line,)
    knots = Isotonic(logits=((-2.0, 2.0),), probs=((0.1, 0.9),))
    probe = made_artefact("binary", thresholds=thresholds, calibration=knots)
    settings = CalibrationSettings("platt")
    now, found = calibrate(probe, probs, targets, settings, DATA)
    assert now.card.thresholds is not None and found["comparison"]["kept"] == "new"
    before = apply("binary", knots, to_logits(probs)) >= (0.5 if line is None else line)
    after = apply("binary", now.card.calibration, to_logits(probs)) >= now.card.thresholds[0]
    assert np.array_equal(before, after)
    assert before.all() == (line == 0.05) and before.any() == (line != 0.95)


def test_a_probability_of_nothing_is_calibrated_too() -> None:
    targets = every(10, 10, 10)
    probs = made("multiclass", targets)
    probs[0], probs[1] = (1.0, 0.0, 0.0), (0.5, 0.5, 0.0)
    probe, found = calibrate(
        made_artefact("multiclass"), probs, targets, CalibrationSettings("temperature"), DATA
    )
    assert np.isfinite(found["comparison"]["new"]["log_loss"]) and probe.card.calibration


@pytest.mark.parametrize("probs", [np.full((20, 1), 0.5), np.repeat([0.8, 0.2], [10, 10])[:, None]])
def test_rows_with_the_label_that_score_no_higher_cannot_be_calibrated(probs: np.ndarray) -> None:
    with pytest.raises(DataError, match="score no higher than those without it"):
        fit_calibration("binary", to_logits(probs), every(10, 10), "platt", ("yes",))


def test_of_two_equal_ones_the_present_is_kept_and_the_new_one_has_to_be_better_twice() -> None:
    targets = np.array([1, 0, 1, 0])
    fair, good = np.full((4, 1), 0.5), np.where(targets, 0.7, 0.3)[:, None]
    assert compare("binary", fair, fair, targets)["kept"] == "present"
    assert compare("binary", fair, good, targets)["kept"] == "new"
    assert compare("binary", good, fair, targets)["kept"] == "present"
    # Three rows nearly right and one all wrong: less of the one score, and more of the other.
    bold = np.array([0.99, 0.01, 0.99, 0.999])[:, None]
    fair = np.where(targets, 0.52, 0.48)[:, None]
    found = compare("binary", fair, bold, targets)
    better = [found["new"][name] < found["present"][name] for name in ("log_loss", "brier")]
    assert sorted(better) == [False, True] and found["kept"] == "present"


def test_a_false_positive_rate_is_of_the_largest_of_all_tokens_where_they_are_given() -> None:
    targets = every(60, 20)
    probs = made("binary", targets)
    largest = np.maximum(probs, made("binary", targets, seed=1))
    settings = CalibrationSettings("platt", Operating(target_fpr=0.1))
    whole, found = calibrate(made_artefact("binary"), probs, targets, settings, DATA)
    every_token, other = calibrate(
        made_artefact("binary"), probs, targets, settings, DATA, largest=largest
    )
    assert (found["rates_of"], other["rates_of"]) == ("whole rows", "largest of all tokens")
    assert whole.card.calibration == every_token.card.calibration
    (low,), (high,) = whole.card.thresholds or (), every_token.card.thresholds or ()
    assert low < high and other["thresholds"][0]["fpr"] <= 0.1
    # Without a rate not all tokens are read.
    plain = CalibrationSettings("platt")
    _, found = calibrate(made_artefact("binary"), probs, targets, plain, DATA, largest=largest)
    assert found["rates_of"] == "whole rows"


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 1.5])
def test_a_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(ConfigError, match=f"The coverage is {coverage:g}"):
        CalibrationSettings(coverage=coverage)
    assert CalibrationSettings(coverage=0.01).coverage == 0.01


def test_just_enough_rows_for_a_rate_are_enough() -> None:
    card = made_artefact("binary").card
    wanted = Operating(target_fpr=0.01, target_fnr=0.1)
    check_wishes(card, every(99, 9), "none", wanted)
    for targets, words in ((every(98, 9), "99 rows without"), (every(99, 8), "9 rows with")):
        with pytest.raises(DataError, match=words):
            check_wishes(card, targets, "none", wanted)
    # Of a multi-class probe a rate is of the rows that it decides.
    check_wishes(made_artefact("multiclass").card, every(5, 5, 5), "platt", Operating())


def test_two_rows_of_each_side_are_enough_to_calibrate() -> None:
    for task, targets in (("binary", every(2, 2)), ("multiclass", every(2, 2, 2))):
        check_wishes(made_artefact(task).card, targets, "platt", Operating())
    check_wishes(made_artefact("multiclass").card, every(1, 0, 1), "temperature", Operating())
    check_wishes(made_artefact("multiclass").card, every(1, 0, 0), "none", Operating())
    check_wishes(made_artefact("binary").card, every(1, 0), "none", Operating())


@pytest.mark.parametrize(
    ("counts", "method", "wishes", "sentence"),
    [
        (
            (1, 1),
            "platt",
            {},
            "The data have 1 row of 'yes', and the method platt needs 2 or more; give more such "
            "rows, or take the method none.",
        ),
        (
            (0, 3),
            "platt",
            {"best_f1": True},
            "The data have no row of 'no', and the method platt needs 2 or more; give more such "
            "rows.",
        ),
        (
            (4, 1),
            "none",
            {"best_f1": True},
            "The data have 1 row of 'yes', and a threshold needs 2 or more; give more such rows.",
        ),
    ],
)
def test_too_few_rows_are_told_in_a_sentence(
    counts: tuple[int, int], method: str, wishes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError) as caught:
        check_wishes(made_artefact("binary").card, every(*counts), method, Operating(**wishes))
    assert str(caught.value) == sentence
