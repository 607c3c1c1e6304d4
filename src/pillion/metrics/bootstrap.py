"""Percentile bootstrap intervals of any metric, over rows.

Promises the same interval for the same arrays and seed. Resamples in which the metric is undefined
are left out and counted. Does not know what a metric measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from pillion.errors import ConfigError, DataError

Metric = Callable[..., float | None]


@dataclass(frozen=True)
class Interval:
    """A metric on all rows, and where it lies in most resamples of them.

    Attributes:
        estimate: the metric on the rows as they are.
        low: lower end of the interval.
        high: upper end of the interval.
        num_resamples: resamples in which the metric was defined.
    """

    estimate: float
    low: float
    high: float
    num_resamples: int


def interval(
    metric: Metric,
    *arrays: Shaped[np.ndarray, "row ..."],
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """The percentile bootstrap interval of `metric(*arrays)` over rows, or None.

    None where the metric is undefined on the rows themselves, or in every resample. The method is
    that of Efron and Tibshirani 1993, section 13.3.

    Args:
        metric: a float, or None where undefined, from arrays whose rows belong together.
        arrays: same number of rows in each; rows are drawn with replacement, the same in each.
        num_resamples: how often rows are drawn.
        seed: of the draws.
        level: share of the resamples that the interval holds, between 0 and 1.

    Raises:
        DataError: arrays with different numbers of rows, or none.
        ConfigError: `num_resamples` or `level` out of range.
    """
    return intervals(
        lambda *rows: {"it": metric(*rows) if all(map(len, rows)) else None},
        *arrays,
        num_resamples=num_resamples,
        seed=seed,
        level=level,
    )["it"]


def intervals(
    metrics: Callable[..., dict[str, float | None]],
    *arrays: Shaped[np.ndarray, "row ..."],
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval | None]:
    """`interval` of several metrics at once: every draw of rows serves them all.

    Args:
        metrics: name -> value, or None where undefined; the same names in every call.
        arrays: as in `interval`.
        num_resamples: as in `interval`.
        seed: as in `interval`.
        level: as in `interval`.
    """
    _check_options(num_resamples, level)
    num_rows = _count_rows(arrays)
    estimates = metrics(*arrays)
    if not num_rows or all(one is None for one in estimates.values()):
        return dict.fromkeys(estimates)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(num_rows, size=num_rows) for _ in range(num_resamples))
    resampled = [metrics(*(array[rows] for array in arrays)) for rows in draws]
    found: dict[str, Interval | None] = {}
    for name, estimate in estimates.items():
        defined = [one[name] for one in resampled if one[name] is not None]
        found[name] = None
        if estimate is not None and defined:
            values = np.array(defined, dtype=np.float64)
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            found[name] = Interval(float(estimate), float(low), float(high), len(defined))
    return found


def paired_interval(
    metric: Metric,
    a: Shaped[np.ndarray, "row ..."],
    b: Shaped[np.ndarray, "row ..."],
    targets: Shaped[np.ndarray, "row ..."],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """The interval of `metric(a, targets) - metric(b, targets)` on the same rows in each resample.

    An interval without zero says that the two differ on this split. Arguments and errors are those
    of `interval`; `a` and `b` are what two systems gave for the same rows.
    """

    def difference(a: np.ndarray, b: np.ndarray, targets: np.ndarray) -> float | None:
        of_a, of_b = metric(a, targets), metric(b, targets)
        return None if of_a is None or of_b is None else of_a - of_b

    return interval(difference, a, b, targets, num_resamples=num_resamples, seed=seed, level=level)


def _check_options(num_resamples: int, level: float) -> None:
    if num_resamples < 1:
        raise ConfigError(f"Got num_resamples = {num_resamples}; give a number of at least 1.")
    if not 0 < level < 1:
        raise ConfigError(f"Got level = {level}; give a share between 0 and 1, such as 0.95.")


def _count_rows(arrays: tuple[np.ndarray, ...]) -> int:
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) != 1:
        raise DataError(
            f"Got arrays with {lengths} rows; give at least one array, all with the same rows."
        )
    return lengths.pop()
