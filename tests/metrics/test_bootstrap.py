"""Laws of the bootstrap: seeds, width, pairing and what is undefined."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from pillion.errors import ConfigError, DataError
from pillion.metrics import bootstrap, interval, intervals, paired_interval


def mean(values: np.ndarray) -> float:
    return float(values.mean())


def accuracy(decided: np.ndarray, targets: np.ndarray) -> float:
    return float((decided == targets).mean())


def drawn(num_rows: int = 400) -> np.ndarray:
    return np.random.default_rng(3).normal(size=num_rows)


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    values = drawn()
    got = interval(mean, values)
    assert got is not None
    assert got.estimate == pytest.approx(values.mean())
    assert got.low < got.estimate < got.high
    assert got.high - got.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert got.num_resamples == 1000


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values = drawn()
    assert interval(mean, values, seed=1) == interval(mean, values, seed=1)
    assert interval(mean, values, seed=1) != interval(mean, values, seed=2)


def test_a_higher_level_gives_a_wider_interval() -> None:
    narrow, wide = (interval(mean, drawn(), level=level) for level in (0.5, 0.99))
    assert narrow is not None and wide is not None
    assert wide.low < narrow.low < narrow.high < wide.high


def test_rows_of_all_arrays_stay_together() -> None:
    targets = np.arange(50)
    got = interval(accuracy, targets, targets.copy(), num_resamples=20)
    assert got is not None
    assert (got.low, got.high) == (1.0, 1.0)


def test_a_system_does_not_differ_from_itself() -> None:
    targets = np.arange(40) % 2
    got = paired_interval(accuracy, np.ones(40), np.ones(40), targets, num_resamples=50)
    assert got is not None
    assert (got.estimate, got.low, got.high) == (0.0, 0.0, 0.0)


def test_pairing_finds_a_small_difference_that_two_intervals_hide() -> None:
    targets = np.arange(400) % 2
    a, b = targets.copy(), targets.copy()
    a[:120] = 1 - a[:120]
    b[:132] = 1 - b[:132]
    alone_a, alone_b = interval(accuracy, a, targets), interval(accuracy, b, targets)
    paired = paired_interval(accuracy, a, b, targets)
    assert alone_a is not None and alone_b is not None and paired is not None
    assert alone_a.low < alone_b.high
    assert paired.estimate == pytest.approx(0.03)
    assert paired.low > 0


def test_a_metric_that_is_undefined_on_the_rows_has_no_interval() -> None:
    def undefined(values: np.ndarray) -> None:
        return None

    assert interval(undefined, drawn()) is None
    assert interval(mean, drawn(0)) is None


def test_resamples_without_a_value_are_left_out_and_counted() -> None:
    def mean_with_first(values: np.ndarray) -> float | None:
        return mean(values) if 0 in values else None

    got = interval(mean_with_first, np.arange(10), num_resamples=200)
    assert got is not None
    assert 0 < got.num_resamples < 200


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_resamples = 0"):
        interval(mean, drawn(), num_resamples=0)
    for level in (95.0, 1.0, 0.0, -0.5):
        with pytest.raises(ConfigError, match=f"level = {level}"):
            interval(mean, drawn(), level=level)
    assert interval(mean, drawn(), num_resamples=1, level=0.01) is not None


def test_arrays_of_different_lengths_are_refused() -> None:
    # Where the test run checks shapes, that check answers first.
    with pytest.raises((DataError, TypeCheckError)):
        interval(accuracy, np.ones(3), np.ones(4))
    for lengths in ((3, 4), (4, 3)):
        with pytest.raises(DataError, match="at least one array"):
            bootstrap._count_rows(tuple(np.ones(length) for length in lengths))
    with pytest.raises(DataError, match="at least one array"):
        interval(mean)


def test_several_metrics_share_their_draws() -> None:
    values = drawn()

    def both(rows: np.ndarray) -> dict[str, float | None]:
        return {"mean": mean(rows), "twice": 2 * mean(rows), "never": None}

    got = intervals(both, values, num_resamples=50, seed=4)
    assert got["mean"] == interval(mean, values, num_resamples=50, seed=4)
    assert got["never"] is None
    one, two = got["mean"], got["twice"]
    assert one is not None and two is not None
    assert two.low == pytest.approx(2 * one.low) and two.high == pytest.approx(2 * one.high)


def test_the_ends_are_quantiles_of_the_draws_of_a_seed() -> None:
    values = drawn(30)
    rng = np.random.default_rng(8)
    means = [mean(values[rng.integers(30, size=30)]) for _ in range(60)]
    got = interval(mean, values, num_resamples=60, seed=8, level=0.8)
    assert got is not None
    assert [got.low, got.high] == pytest.approx(np.quantile(means, [0.1, 0.9]).tolist(), abs=1e-12)


def test_what_is_left_out_is_a_thousand_draws_of_the_first_seed_at_95_percent() -> None:
    values, targets = drawn(30), drawn(30) > 0
    said = {"num_resamples": 1000, "seed": 0, "level": 0.95}

    def both(rows: np.ndarray) -> dict[str, float | None]:
        return {"mean": mean(rows)}

    def near(decided: np.ndarray, wanted: np.ndarray) -> float:
        return float(np.abs(decided - wanted).mean())

    assert interval(mean, values) == interval(mean, values, **said)
    assert intervals(both, values) == intervals(both, values, **said)
    pair = values, values + 1, targets
    assert paired_interval(near, *pair) == paired_interval(near, *pair, **said)


def test_a_metric_that_is_undefined_on_the_rows_is_asked_once() -> None:
    asked: list[int] = []

    def undefined(rows: np.ndarray) -> dict[str, float | None]:
        asked.append(len(rows))
        return {"one": None, "two": None}

    assert intervals(undefined, drawn(9)) == {"one": None, "two": None}
    assert asked == [9]
    assert intervals(lambda rows: {"count": float(len(rows))}, drawn(0)) == {"count": None}
