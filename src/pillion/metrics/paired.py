"""Paired bootstrap intervals of the difference between two methods, each with several seeds.

Promises the draws and, up to rounding, the numbers of `paired_interval`, hundreds of times faster:
a resample is a vector of counts, and a metric is a few products with a matrix of them. Does not
know what the methods are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from pillion.errors import DataError, unknown_name
from pillion.metrics.bootstrap import Interval
from pillion.metrics.classification import decide

Thresholds = Sequence[float] | None
Counts = Float32[np.ndarray, "row resample"]
"""How often each row was drawn; whole numbers, which fp32 adds up exactly."""

Measured = Float[np.ndarray, " resample"]

_RESAMPLES_AT_ONCE = 200


@dataclass(frozen=True)
class Resampled:
    """A method's metric, the mean over its seeds.

    Attributes:
        estimate: on the rows themselves.
        values: on each draw of them.
    """

    estimate: float
    values: Measured


def resampled(
    metric: str,
    seeds: Sequence[tuple[Float[np.ndarray, "row output"], Thresholds]],
    targets: Shaped[np.ndarray, "row ..."],
    task: str,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """A metric on the rows and on draws of them; NaN where it is undefined.

    Args:
        metric: a name of `PAIRED`.
        seeds: probabilities and thresholds, once a seed.
        targets: as in `evaluate`, judged on every label.
        task: as in `evaluate`.
        num_resamples: how often rows are drawn.
        seed: of the draws: with the same one every method sees the same rows.

    Raises:
        ConfigError: an unknown metric or task.
        DataError: labels that were not judged.
    """
    if metric not in PAIRED:
        raise unknown_name("paired metric", metric, PAIRED)
    (first, _), *_ = seeds
    wanted = _columns(targets, first.shape[1], task)
    measures = [PAIRED[metric](probs, decide(probs, task, lines), wanted) for probs, lines in seeds]

    def mean(counts: Counts) -> Measured:
        return np.mean([measure(counts) for measure in measures], axis=0)

    rng = np.random.default_rng(seed)
    found: list[Measured] = []
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        number = min(_RESAMPLES_AT_ONCE, num_resamples - start)
        found.append(mean(_draws(rng, number, len(wanted))))
    (itself,) = mean(np.ones(len(wanted), dtype=np.float32)[:, None])
    return Resampled(float(itself), np.concatenate(found))


def paired_difference(
    first: Resampled, second: Resampled, *, level: float = 0.95
) -> Interval | None:
    """The interval of the first method's metric minus the second's, draw by draw.

    None where either is undefined on the rows themselves.

    Args:
        first: on some draws.
        second: on the same ones.
        level: share of the draws that the interval holds.
    """
    estimate, values = first.estimate - second.estimate, first.values - second.values
    defined = values[~np.isnan(values)]
    if np.isnan(estimate) or not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), len(defined))


def _draws(rng: np.random.Generator, number: int, num_rows: int) -> Counts:
    """How often each row was drawn, in the order of draws of `interval`."""
    counts = np.empty((number, num_rows), dtype=np.float32)
    for place in range(number):
        drawn = rng.integers(num_rows, size=num_rows)
        counts[place] = np.bincount(drawn, minlength=num_rows)
    return np.ascontiguousarray(counts.T)


def _columns(targets: np.ndarray, num_outputs: int, task: str) -> Int[np.ndarray, "row output"]:
    if np.isnan(targets).any():
        raise DataError(
            "Some rows have labels that were not judged, which draws of all rows cannot leave out; "
            "give rows that are judged on every label."
        )
    ids = targets.astype(np.int64)
    if task == "multiclass":
        return np.eye(num_outputs, dtype=np.int64)[ids]
    return ids.reshape(len(ids), num_outputs)


_Measure = Callable[[Counts], Measured]


def _accuracy(probs: np.ndarray, decided: np.ndarray, wanted: np.ndarray) -> _Measure:
    right = (decided == wanted).all(1).astype(np.float32)
    return lambda counts: (right @ counts).astype(float) / counts.sum(0)


def _f1(probs: np.ndarray, decided: np.ndarray, wanted: np.ndarray) -> _Measure:
    both, given = ((part.T).astype(np.float32) for part in (decided * wanted, decided + wanted))
    true = wanted.T.astype(np.float32)

    def measure(counts: Counts) -> Measured:
        # Undefined without a positive row, as in `evaluate`.
        return _mean_of_defined(_ratio(2 * (both @ counts), given @ counts, true @ counts))

    return measure


def _auprc(probs: np.ndarray, decided: np.ndarray, wanted: np.ndarray) -> _Measure:
    columns = [_average_precision(probs[:, i], wanted[:, i]) for i in range(wanted.shape[1])]
    return lambda counts: _mean_of_defined(np.stack([one(counts) for one in columns]))


def _average_precision(scores: np.ndarray, wanted: np.ndarray) -> _Measure:
    """Average precision under counts: rows are sorted once, and ties count together.

    Recall moves at positive rows only, so rows are added up from one of them to the next.
    """
    order = np.argsort(-scores, kind="stable")
    scores, wanted = scores[order], wanted[order]
    if not wanted.any():
        return _undefined
    stops = np.append(np.flatnonzero(np.diff(scores)) + 1, len(scores))  # of each tie
    places = np.flatnonzero(wanted)
    ties, first = np.unique(np.searchsorted(stops, places, side="right"), return_index=True)
    starts = np.append(0, stops[ties][:-1])
    ranked, positives = order[: stops[ties[-1]]], order[places]

    def measure(counts: Counts) -> Measured:
        between = np.add.reduceat(counts[ranked], starts, axis=0)
        seen = between.cumsum(0, dtype=float)
        gained = np.add.reduceat(counts[positives], first, axis=0)
        hits = gained.cumsum(0, dtype=float)
        total = hits[-1]
        found = (gained * hits / np.maximum(seen, 1)).sum(0)
        return _ratio(found, total, total * (counts.sum(0) - total))

    return measure


def _undefined(counts: Counts) -> Measured:
    return np.full(counts.shape[1], np.nan)


def _mean_of_defined(each: Float[np.ndarray, "output resample"]) -> Measured:
    """The mean over outputs of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(each)
    number = defined.sum(0)
    return _ratio(np.where(defined, each, 0).sum(0), number, number)


def _ratio(top: np.ndarray, bottom: np.ndarray, known: np.ndarray) -> np.ndarray:
    """One by the other where the last is not zero, else NaN."""
    nothing = np.full(top.shape, np.nan)
    return np.divide(top, bottom, out=nothing, where=known.astype(bool), dtype=np.float64)


PAIRED: dict[str, Callable[..., _Measure]] = {"accuracy": _accuracy, "f1": _f1, "auprc": _auprc}
"""The metrics that have a paired interval."""
