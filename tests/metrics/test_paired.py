"""Paired differences equal those of the plain bootstrap, resample by resample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pillion.errors import ConfigError, DataError
from pillion.metrics import PAIRED, evaluate, interval, paired_interval, resampled
from pillion.metrics import paired_difference as difference_of
from pillion.metrics.bootstrap import Interval

ROWS = 60


def system(seed: int, task: str, targets: np.ndarray) -> np.ndarray:
    """Probabilities that know something of the targets, with ties among them."""
    random = np.random.default_rng(seed)
    if task == "multiclass":
        raw = random.random((ROWS, 3)) + 0.7 * np.eye(3)[targets]
        return raw / raw.sum(1, keepdims=True)
    wide = targets.reshape(ROWS, -1)
    return np.round((random.random(wide.shape) + 0.5 * wide) / 1.5, 1)


def paired_difference(
    metric: str, first: Any, second: Any, targets: np.ndarray, task: str, **draws: int
) -> Interval | None:
    return difference_of(
        *(resampled(metric, side, targets, task, **draws) for side in (first, second))
    )


def targets_of(task: str) -> np.ndarray:
    random = np.random.default_rng(9)
    if task == "multilabel":
        return (random.random((ROWS, 3)) < 0.3).astype(np.float32)
    return random.integers(0, 2 if task == "binary" else 3, ROWS)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("metric", PAIRED)
def test_it_is_the_plain_paired_interval(task: str, metric: str) -> None:
    targets = targets_of(task)
    a, b = system(1, task, targets), system(2, task, targets)

    def measured(probs: np.ndarray, wanted: np.ndarray) -> float | None:
        return evaluate(probs, wanted, task)[metric]

    plain = paired_interval(measured, a, b, targets, num_resamples=40, seed=5)
    fast = paired_difference(
        metric, [(a, None)], [(b, None)], targets, task, num_resamples=40, seed=5
    )
    other = paired_difference(
        metric, [(a, None)], [(b, None)], targets, task, num_resamples=40, seed=6
    )
    assert plain is not None and fast is not None and other is not None
    numbers = [plain.estimate, plain.low, plain.high]
    assert [fast.estimate, fast.low, fast.high] == pytest.approx(numbers, abs=1e-12)
    assert fast.num_resamples == plain.num_resamples
    assert [other.low, other.high] != pytest.approx(numbers[1:], abs=1e-12)


def test_several_seeds_are_averaged_within_each_resample() -> None:
    targets = targets_of("binary")
    a, b, c = (system(seed, "binary", targets) for seed in (1, 2, 3))
    both = paired_difference("auprc", [(a, None), (b, None)], [(c, None)], targets, "binary")
    alone = [
        paired_difference("auprc", [(one, None)], [(c, None)], targets, "binary") for one in (a, b)
    ]
    assert both is not None
    means = [one.estimate for one in alone if one is not None]
    assert both.estimate == pytest.approx(np.mean(means))


def test_thresholds_decide() -> None:
    targets = targets_of("binary")
    probs = system(1, "binary", targets)
    found = paired_difference("accuracy", [(probs, (0.4,))], [(probs, (0.9,))], targets, "binary")
    assert found is not None
    lines = [evaluate(probs, targets, "binary", line)["accuracy"] for line in (0.4, 0.9)]
    assert found.estimate == pytest.approx(lines[0] - lines[1])  # type: ignore[operator]


def test_it_is_undefined_where_the_metric_is() -> None:
    targets = np.zeros(ROWS, dtype=np.int64)
    probs = np.full((ROWS, 1), 0.3)
    assert paired_difference("f1", [(probs, None)], [(probs, None)], targets, "binary") is None


def test_an_unknown_metric_is_refused() -> None:
    targets = targets_of("binary")
    probs = system(1, "binary", targets)
    with pytest.raises(ConfigError, match="Unknown paired metric 'auroc'; known: accuracy"):
        paired_difference("auroc", [(probs, None)], [(probs, None)], targets, "binary")


def test_a_method_that_is_wrong_at_every_row_is_measured_too() -> None:
    """Its positives are in the last tie, where nothing follows."""
    scores = np.array([0.9, 0.7, 0.5, 0.5, 0.2, 0.1, 0.1, 0.1])[:, None]
    targets = np.array([0, 0, 1, 0, 0, 1, 1, 0])
    assert_plain("auprc", scores, targets, "binary")
    assert_plain("auprc", np.round(1 - scores, 1), targets, "binary")


@pytest.mark.parametrize("metric", PAIRED)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("flipped", [False, True])
def test_draws_without_a_label_or_with_nothing_else_are_left_out_as_in_the_plain_bootstrap(
    metric: str, task: str, flipped: bool
) -> None:
    noise = np.random.default_rng(4)
    rare = np.zeros((12, 3), dtype=np.int64)
    rare[3, 0] = rare[5, 1] = rare[[7, 8], 2] = 1
    if task == "multiclass":
        targets: np.ndarray = rare @ np.array([1, 2, 2])
        probs = noise.dirichlet(np.ones(3), 12)
    else:
        targets = 1 - rare if flipped else rare
        # A label that is hardly ever given: draws hold rows of neither kind.
        probs = noise.random((12, 3)).round(1) * (0.6 if not flipped else 1)
        if task == "binary":
            targets, probs = targets[:, 0], probs[:, :1]
        else:
            targets = targets.astype(np.float32)
    assert_plain(metric, probs, targets, task)


def assert_plain(metric: str, probs: np.ndarray, targets: np.ndarray, task: str) -> None:
    """Raises unless the values of a method are those of the plain bootstrap, draw by draw."""
    kept: list[float] = []

    def measured(probs: np.ndarray, wanted: np.ndarray) -> float | None:
        value = evaluate(probs, wanted, task)[metric]
        kept.append(np.nan if value is None else value)
        return value

    found = resampled(metric, [(probs, None)], targets, task, num_resamples=230, seed=3)
    interval(measured, probs, targets, num_resamples=230, seed=3)
    np.testing.assert_allclose(found.estimate, kept[0], atol=1e-12)
    np.testing.assert_allclose(found.values, kept[1:], atol=1e-12)


def test_what_is_left_out_is_a_thousand_draws_of_the_first_seed() -> None:
    targets = targets_of("binary")
    one = [(system(1, "binary", targets), None)]
    found = resampled("accuracy", one, targets, "binary")
    said = resampled("accuracy", one, targets, "binary", num_resamples=1000, seed=0)
    assert len(found.values) == 1000 and np.array_equal(found.values, said.values)


def test_a_difference_has_the_quantiles_of_its_level() -> None:
    targets = targets_of("binary")
    first, second = (
        resampled("accuracy", [(system(seed, "binary", targets), None)], targets, "binary")
        for seed in (1, 2)
    )
    values = first.values - second.values
    for level, ends in ((None, (0.025, 0.975)), (0.5, (0.25, 0.75))):
        options = {} if level is None else {"level": level}
        found = difference_of(first, second, **options)
        assert found is not None
        assert (found.low, found.high) == pytest.approx(np.quantile(values, ends), abs=1e-12)


def test_labels_that_were_not_judged_are_refused() -> None:
    """They became the smallest of all whole numbers, and metrics of it."""
    probs, targets = np.full((4, 2), 0.7), np.array([[1, 0], [0, 1], [np.nan, 1], [1, 1]])
    for metric in PAIRED:
        with pytest.raises(DataError, match="labels that were not judged"):
            resampled(metric, [(probs, None)], targets, "multilabel", num_resamples=5)
