"""Where a probe decides: thresholds at a rate, a precision, a cost or the best F1, and bands.

Promises thresholds and bands that fit the card, or a sentence why the rows do not allow them. Does
not know calibration, which comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from pillion.errors import ConfigError, DataError
from pillion.metrics.thresholds import (
    UNLIKELY,
    f1_threshold,
    fnr_threshold,
    fpr_threshold,
    level_threshold,
    precision_threshold,
)
from pillion.probe.decisions import Band
from pillion.probe.task import Task

RULES = ("best_f1", "target_fpr", "target_precision", "cost_fp")
SHARES = ("target_fpr", "target_fnr", "target_precision", "abstain_share")
COSTS = ("cost_fp", "cost_fn", "cost_escalation")
LEAST_SHARE = 1e-9
"""No rows could show a smaller one."""
SHARE_RANGE = LEAST_SHARE, float(np.nextafter(1, 0))
A_SHARE = f"a share between 0 and 1, of {LEAST_SHARE:g} or more"
COST_RANGE = 1e-6, 1e6
"""Sums of costs stay finite, and all their ratios are told apart."""
A_COST = "a cost above 0, from {:g} to {:g}: only their ratios count".format(*COST_RANGE)
NEVER = 1.0
"""The threshold of a multi-class label that the rows allow none."""


@dataclass(frozen=True)
class Operating:
    """What is wanted of thresholds and bands; nothing keeps the thresholds and decides always.

    Attributes:
        best_f1: thresholds of best F1.
        target_fpr: highest false positive rate of a label; for multi-class below the threshold of
            the likeliest label the probe abstains.
        target_precision: lowest precision of a label; for multi-class as `target_fpr`.
        target_fnr: highest false negative rate: below a lower threshold a row is decided to be
            without the label, between the two the probe abstains. Goes with `target_fpr`.
        cost_fp: of labelling a row wrongly. Goes with `cost_fn`.
        cost_fn: of missing a label.
        cost_escalation: of handing a row on to what decides in the probe's place.
        abstain_share: share of the rows that is handed on, those nearest to their threshold.
        abstain_band: probabilities in which the probe abstains, for all labels.

    Raises:
        ConfigError: wishes out of range, or that contradict each other.
    """

    best_f1: bool = False
    target_fpr: float | None = None
    target_fnr: float | None = None
    target_precision: float | None = None
    cost_fp: float | None = None
    cost_fn: float | None = None
    cost_escalation: float | None = None
    abstain_share: float | None = None
    abstain_band: Band | None = None

    def __post_init__(self) -> None:
        for name in SHARES:
            _check(name, getattr(self, name), *SHARE_RANGE, A_SHARE)
        for name in COSTS:
            _check(name, getattr(self, name), *COST_RANGE, A_COST)
        low, high = self.abstain_band or (0, 1)
        if not 0 <= low <= high <= 1:
            raise ConfigError(
                f"The band to abstain in is {low:g},{high:g}; give one from low to high, within 0 "
                "to 1."
            )
        if (self.cost_fp is None) != (self.cost_fn is None):
            raise ConfigError("cost-fp and cost-fn go together; give both or neither.")
        if len(self.rules) > 1:
            given = " and ".join(map(_option, self.rules))
            raise ConfigError(f"{given} each choose the threshold; give one of them.")
        if self.target_fnr is not None and self.target_fpr is None:
            raise ConfigError("target-fnr is the lower of two thresholds; give target-fpr too.")
        if len(self.band_rules) > 1:
            raise ConfigError("abstain and target-fnr both choose the band; give one of them.")
        if self.cost_escalation is not None and self.cost_fp is None and not self.band_rules:
            raise ConfigError(
                "cost-escalation is the price of handing a text on, but no rule hands one on; "
                "give cost-fp and cost-fn, or a band to abstain in."
            )

    @property
    def rules(self) -> list[str]:
        """The wishes that choose thresholds."""
        return [name for name in RULES if getattr(self, name) not in (None, False)]

    @property
    def band_rules(self) -> list[str]:
        """The wishes that choose bands, costs aside."""
        names = ("target_fnr", "abstain_share", "abstain_band")
        return [name for name in names if getattr(self, name) is not None]

    def check(self, task: Task) -> None:
        """Refuses what a task has no use for.

        Raises:
            ConfigError: naming the option.
        """
        if task != "multiclass":
            return
        if self.best_f1 or self.cost_fp is not None:
            raise ConfigError(
                "For a multi-class probe the likeliest label decides: best-f1 and cost-fp have no "
                "threshold to choose; use target-precision, target-fpr or abstain."
            )
        if self.target_fnr is not None:
            raise ConfigError("target-fnr is for binary and multi-label probes; leave it out.")
        if self.rules and self.band_rules:
            raise ConfigError(
                "For a multi-class probe target-fpr and target-precision choose where it "
                "abstains; leave abstain out."
            )

    def wishes(self) -> dict[str, object]:
        """What was asked for, as JSON values."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in known.items() if v}


def columns(
    task: Task, probs: np.ndarray, targets: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and targets of each output, of the rows that were judged on it.

    For multi-class a row scores for its likeliest label; for the others it lies below any
    threshold, that of 0 too.
    """
    outputs = probs.shape[1]
    if task != "multiclass":
        each = zip(probs.T, targets.reshape(-1, outputs).T, strict=True)
        return [(x[~np.isnan(y)], y[~np.isnan(y)].astype(np.int64)) for x, y in each]
    best = probs.argmax(axis=1)
    return [
        (np.where(best == i, probs[:, i], UNLIKELY), (targets == i).astype(np.int64))
        for i in range(outputs)
    ]


def threshold(wanted: Operating, scores: np.ndarray, targets: np.ndarray) -> float | None:
    """The threshold of one label by the rule that is wanted; None where the rows allow none."""
    if wanted.target_fpr is not None:
        return fpr_threshold(scores, targets, wanted.target_fpr)
    if wanted.target_precision is not None:
        return precision_threshold(scores, targets, wanted.target_precision)
    if wanted.cost_fp is not None and wanted.cost_fn is not None:
        level = wanted.cost_fp / (wanted.cost_fp + wanted.cost_fn)
        return level_threshold(scores, targets, level)
    return f1_threshold(scores, targets)


def choose_thresholds(
    wanted: Operating,
    task: Task,
    probs: np.ndarray,
    targets: np.ndarray,
    names: Sequence[str],
) -> tuple[float, ...]:
    """Thresholds of every output by the rule that is wanted.

    Args:
        wanted: with a rule.
        task: what the probabilities mean.
        probs: (row, output).
        targets: label ids, or 0/1 a label.
        names: label of each output.

    Raises:
        DataError: rows that allow none, naming the label; for multi-class none for any label.
    """
    found = [threshold(wanted, *column) for column in columns(task, probs, targets)]
    missing = [name for name, value in zip(names, found, strict=True) if value is None]
    if missing and (task != "multiclass" or len(missing) == len(names)):
        raise DataError(why_none(wanted, missing[0], len(targets)))
    # A label that never is right often enough is never decided for, which `never_decided` tells.
    return tuple(NEVER if value is None else value for value in found)


def never_decided(task: Task, thresholds: Sequence[float], names: Sequence[str]) -> list[str]:
    """Labels of a multi-class probe that it abstains on, however likely they are."""
    if task != "multiclass":
        return []
    return [name for name, line in zip(names, thresholds, strict=True) if line >= NEVER]


def choose_bands(
    wanted: Operating,
    task: Task,
    probs: np.ndarray,
    targets: np.ndarray,
    thresholds: Sequence[float],
    names: Sequence[str],
) -> tuple[Band, ...] | None:
    """The bands in which the probe abstains, one an output; None where it always decides.

    Args:
        wanted: of the bands.
        task: what the probabilities mean.
        probs: (row, output).
        targets: label ids, or 0/1 a label.
        thresholds: one an output; for multi-class those below which the probe abstains.
        names: label of each output.

    Raises:
        DataError: rows that allow none, naming the label.
    """
    if task == "multiclass":
        return _floors(wanted, probs, thresholds)
    if wanted.abstain_band is not None:
        return (wanted.abstain_band,) * len(thresholds)
    if wanted.abstain_share is not None:
        return _nearest(wanted.abstain_share, probs, thresholds)
    if wanted.target_fnr is None and (wanted.cost_fp is None or wanted.cost_escalation is None):
        return None
    bands: list[Band] = []
    for name, line, (scores, truth) in zip(
        names, thresholds, columns(task, probs, targets), strict=True
    ):
        band = _two_thresholds(wanted, scores, truth, line)
        if band is None:
            raise DataError(why_none(wanted, name, len(targets), lower=True))
        bands.append(band)
    return tuple(bands)


def _floors(
    wanted: Operating, probs: np.ndarray, thresholds: Sequence[float]
) -> tuple[Band, ...] | None:
    if wanted.abstain_band is not None:
        return (wanted.abstain_band,) * probs.shape[1]
    if wanted.abstain_share is not None:
        floor = float(np.quantile(probs.max(axis=1), wanted.abstain_share))
        return ((0.0, floor),) * probs.shape[1]
    return tuple((0.0, line) for line in thresholds) if wanted.rules else None


def _nearest(share: float, probs: np.ndarray, thresholds: Sequence[float]) -> tuple[Band, ...]:
    """Bands of one width, around each threshold, that hold a share of the rows."""
    lines = np.array(thresholds)
    width = float(np.quantile(np.abs(probs - lines).min(axis=1), share))
    low, high = np.clip(lines - width, 0, 1), np.clip(lines + width, 0, 1)
    return tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))


def _two_thresholds(
    wanted: Operating, scores: np.ndarray, truth: np.ndarray, line: float
) -> Band | None:
    """A lower threshold for the upper one, or both by costs (Chow 1970)."""
    if wanted.target_fnr is not None:
        low = fnr_threshold(scores, truth, wanted.target_fnr)
        return None if low is None else (min(low, line), line)
    assert wanted.cost_fp and wanted.cost_fn and wanted.cost_escalation
    levels = wanted.cost_escalation / wanted.cost_fn, 1 - wanted.cost_escalation / wanted.cost_fp
    if levels[0] >= levels[1]:
        return line, line  # to hand a row on costs more than it saves
    low, high = (level_threshold(scores, truth, level) for level in levels)
    return None if low is None or high is None else (low, high)


def why_none(wanted: Operating, name: str, num_rows: int, lower: bool = False) -> str:
    """Why these rows allow no threshold of a label, or no lower one."""
    rate = "target_fnr" if lower else "target_fpr"
    limit = getattr(wanted, rate)
    if limit is not None:
        side = "with" if lower else "without"
        needed = int(np.ceil(1 / limit - 1 - 1e-9))
        return (
            f"Label {name!r}: {num_rows} rows cannot show {_option(rate)} {limit:g}, which takes "
            f"{needed} rows {side} the label that are not all certain; give more rows, or a higher "
            "rate."
        )
    if wanted.target_precision is not None:
        return (
            f"Label {name!r}: no threshold has a precision of {wanted.target_precision:g} on these "
            f"{num_rows} rows (one wrong row more is counted); give more rows, or ask for less."
        )
    return (
        f"Label {name!r}: the rows with it score no higher than those without it, or one side has "
        "no row, so no threshold can be chosen; check the labels."
    )


def check_seed(seed: int) -> None:
    """Returns if folds and resamples can be drawn with a seed.

    Raises:
        ConfigError: they cannot.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"The seed is {seed}; give a whole number from 0 to {2**32 - 1}.")


def _check(name: str, value: float | None, least: float, most: float, wanted: str) -> None:
    if value is not None and not least <= value <= most:
        raise ConfigError(f"{_option(name)} is {value:g}; give {wanted}.")


def _option(name: str) -> str:
    return "abstain" if name.startswith("abstain") else name.replace("_", "-")
