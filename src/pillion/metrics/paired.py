"""Paired bootstrap intervals of the difference between two methods, each with several seeds.

Promises the draws and, up to rounding, the numbers of `paired_interval`, hundreds of times faster:
a resample is a vector of counts, and a metric is a few products with a matrix of them. Does not
know what the methods are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from pillion.errors import unknown_name
from pillion.metrics.bootstrap import Interval
from pillion.metrics.classification import decide

Thresholds = Sequence[float] | None
Counts = Float[np.ndarray, "resample row"]
Measured = Float[np.ndarray, " resample"]

_RESAMPLES_AT_ONCE = 100


def paired_difference(
    metric: str,
    first: Sequence[tuple[Float[np.ndarray, "row output"], Thresholds]],
    second: Sequence[tuple[Float[np.ndarray, "row output"], Thresholds]],
    targets: Shaped[np.ndarray, "row ..."],
    task: str,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """The interval of mean `metric` of `first` minus that of `second`, on the same rows each time.

    The means are over what each has several of, such as seeds. None where either is undefined on
    the rows themselves.

    Args:
        metric: a name of `PAIRED`.
        first: probabilities and thresholds, once a seed.
        second: those that are subtracted.
        targets: as in `evaluate`.
        task: as in `evaluate`.
        num_resamples: how often rows are drawn.
        seed: of the draws.
        level: share of the resamples that the interval holds.

    Raises:
        ConfigError: an unknown metric or task.
    """
    if metric not in PAIRED:
        raise unknown_name("paired metric", metric, PAIRED)
    wanted = _columns(targets, first[0][0].shape[1], task)
    measures = [
        [PAIRED[metric](probs, decide(probs, task, lines), wanted, task) for probs, lines in side]
        for side in (first, second)
    ]

    def difference(counts: np.ndarray) -> np.ndarray:
        means = [np.mean([measure(counts) for measure in side], axis=0) for side in measures]
        return means[0] - means[1]

    estimate = float(difference(np.ones((1, len(wanted))))[0])
    if np.isnan(estimate):
        return None
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        number = min(_RESAMPLES_AT_ONCE, num_resamples - start)
        found.append(difference(_draws(rng, number, len(wanted))))
    values = np.concatenate(found)
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), len(defined))


def _draws(rng: np.random.Generator, number: int, num_rows: int) -> Counts:
    """How often each row was drawn, in the order of draws of `interval`."""
    counts = np.empty((number, num_rows))
    for place in range(number):
        drawn = rng.integers(num_rows, size=num_rows)
        counts[place] = np.bincount(drawn, minlength=num_rows)
    return counts


def _columns(targets: np.ndarray, num_outputs: int, task: str) -> Int[np.ndarray, "row output"]:
    ids = targets.astype(np.int64)
    if task == "multiclass":
        return np.eye(num_outputs, dtype=np.int64)[ids]
    return ids.reshape(len(ids), num_outputs)


_Measure = Callable[[np.ndarray], np.ndarray]


def _accuracy(probs: np.ndarray, decided: np.ndarray, wanted: np.ndarray, task: str) -> _Measure:
    right = (decided == wanted).all(1).astype(float)
    return lambda counts: counts @ right / counts.sum(1)


def _f1(probs: np.ndarray, decided: np.ndarray, wanted: np.ndarray, task: str) -> _Measure:
    both, given = (decided * wanted).astype(float), (decided + wanted).astype(float)

    def measure(counts: np.ndarray) -> np.ndarray:
        total, positives = counts @ given, counts @ wanted.astype(float)
        # Undefined without a positive row, as in `evaluate`.
        each = np.where(positives > 0, 2 * (counts @ both) / np.maximum(total, 1), np.nan)
        return _mean_of_defined(each)

    return measure


def _auprc(probs: np.ndarray, decided: np.ndarray, wanted: np.ndarray, task: str) -> _Measure:
    columns = [_average_precision(probs[:, i], wanted[:, i]) for i in range(wanted.shape[1])]
    return lambda counts: _mean_of_defined(np.stack([one(counts) for one in columns], 1))


def _average_precision(scores: np.ndarray, wanted: np.ndarray) -> _Measure:
    """Average precision under counts: rows are sorted once, ties end together."""
    order = np.argsort(-scores, kind="stable")
    scores, wanted = scores[order], wanted[order].astype(float)
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))

    def measure(counts: np.ndarray) -> np.ndarray:
        sorted_counts = counts[:, order]
        seen = sorted_counts.cumsum(1)[:, ends]
        hits = (sorted_counts * wanted).cumsum(1)[:, ends]
        gained = np.diff(hits, axis=1, prepend=0)
        total = hits[:, -1]
        found = (gained * hits / np.maximum(seen, 1)).sum(1) / np.maximum(total, 1)
        return np.where((total > 0) & (total < seen[:, -1]), found, np.nan)

    return measure


def _mean_of_defined(each: np.ndarray) -> Measured:
    """The mean over columns of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(each)
    number = defined.sum(1)
    total = np.where(defined, each, 0).sum(1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


PAIRED: dict[str, Callable[..., _Measure]] = {"accuracy": _accuracy, "f1": _f1, "auprc": _auprc}
"""The metrics that have a paired interval."""
