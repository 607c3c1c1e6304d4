"""A probe's calibration, thresholds, bands and conformal sets, chosen on labelled rows.

Promises a revised artefact and what was found, as JSON values: every number with the rows that it
came from. Rows that the probe was trained on make it look better than it is; the caller must bring
others (`pillion.evals.scoring.own_rows`). Does not know the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from pydantic import JsonValue
from sklearn.model_selection import KFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from pillion.core import defaults
from pillion.errors import ConfigError, DataError
from pillion.evals.comparison import compare
from pillion.evals.conformal import fit_conformal
from pillion.evals.operating import (
    LEAST_SHARE,
    Operating,
    check_seed,
    choose_bands,
    choose_thresholds,
)
from pillion.evals.rates import describe_escalation, describe_thresholds
from pillion.evals.wishes import check_wishes
from pillion.metrics import evaluate
from pillion.metrics.calibration import fit_isotonic, fit_platt, fit_temperature
from pillion.metrics.thresholds import to_logits
from pillion.probe import Artefact, Card
from pillion.probe.calibration import Affine, Calibrator, Isotonic
from pillion.probe.task import Task, probabilities

Method = Literal["temperature", "platt", "isotonic", "none"]

OF_ORDER = ("auprc", "auroc", "tpr_at_fpr_1", "tpr_at_fpr_01")
"""Metrics that see nothing but which row of a label scores higher."""

NUM_FOLDS = 5
"""Parts that take turns at being measured on the calibration of the others."""


@dataclass(frozen=True)
class CalibrationSettings:
    """What is wanted of the decisions.

    Attributes:
        method: how logits become probabilities.
        operating: where the probe decides.
        coverage: of the conformal sets; None for no sets.
        seed: of folds and bootstrap.
    """

    method: Method = defaults.CALIBRATION
    operating: Operating = field(default_factory=Operating)
    coverage: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.coverage is not None and not LEAST_SHARE <= self.coverage < 1:
            raise ConfigError(
                f"The coverage is {self.coverage:g}; give a share between 0 and 1, such as 0.9."
            )
        check_seed(self.seed)


def raw_artefact(artefact: Artefact) -> Artefact:
    """The probe as training left it but for its thresholds; what calibration starts from."""
    return artefact.revised(
        calibration=None, abstain=None, conformal=None, exit=None, decisions=None
    )


# Hundreds of fits of two numbers: threads would only wait for each other.
@threadpool_limits.wrap(limits=1)
def calibrate(
    artefact: Artefact,
    probs: Float[np.ndarray, "row output"],
    targets: Shaped[np.ndarray, "row ..."],
    settings: CalibrationSettings,
    data: dict[str, Any],
    largest: Float[np.ndarray, "row output"] | None = None,
) -> tuple[Artefact, dict[str, Any]]:
    """The probe with decisions chosen on labelled rows, and what was found.

    Args:
        artefact: of the probe.
        probs: of `raw_artefact(artefact)` for the rows.
        targets: label ids, or 0/1 a label for a multi-label probe.
        settings: what is wanted.
        data: of the rows: `sha256`, `path` and `num_rows`; kept on the card.
        largest: of a probe of responses, the largest probabilities that rows have after any of
            their tokens: what a false positive rate is of, since a policy looks at all of them. The
            calibration is that of `probs`, the verdicts on whole rows, in any case.

    Returns:
        The revised artefact, and the mapping that its card holds as `decisions`.

    Raises:
        DataError: rows that do not allow what is wanted.
        ConfigError: wishes that do not fit the task.
    """
    card, wanted, task = artefact.card, settings.operating, artefact.card.task
    check_wishes(card, targets, settings.method, wanted)
    names = card.labels[1:] if task == "binary" else card.labels
    logits = np.log(np.maximum(probs, 1e-30)) if task == "multiclass" else to_logits(probs)
    calibration, unseen, comparison = _better(card, logits, targets, settings, data, names)
    now = apply(task, calibration, logits)
    deciding = now
    if largest is not None and wanted.target_fpr is not None and task != "multiclass":
        # A binary or multi-label calibration never falls: the largest stays the largest.
        deciding = apply(task, calibration, to_logits(largest))
    lines = None
    if wanted.rules:
        lines = choose_thresholds(wanted, task, deciding, targets, names)
    elif task != "multiclass":
        lines = _kept_thresholds(card, calibration)
    bands = choose_bands(wanted, task, deciding, targets, lines or (), names)
    conformal = None
    if settings.coverage is not None:
        conformal = fit_conformal(task, unseen, targets, settings.coverage)
    thresholds = None if task == "multiclass" else lines
    found: dict[str, Any] = {
        "method": "none" if calibration is None else calibration.method,
        "comparison": comparison,
        "wishes": {**wanted.wishes(), "coverage": settings.coverage},
        "data": data,
        "fitted_on": _fitted_now(card, calibration, data),
        "seed": settings.seed,
        "rates_of": "whole rows" if deciding is now else "largest of all tokens",
        "thresholds": describe_thresholds(
            wanted, task, deciding, targets, lines, names, settings.seed
        ),
        "escalation": describe_escalation(wanted, task, deciding, targets, thresholds, bands),
        "before": evaluate(apply(task, card.calibration, logits), targets, task, card.thresholds),
        "after": _after(task, unseen, now, targets, thresholds, calibration),
    }
    revised = artefact.revised(
        calibration=calibration,
        thresholds=thresholds,
        abstain=bands,
        conformal=conformal,
        exit=None,  # its bands were chosen beside other decisions
        decisions=found,
    )
    return revised, found


def _after(
    task: Task,
    unseen: np.ndarray,
    now: np.ndarray,
    targets: np.ndarray,
    thresholds: Sequence[float] | None,
    calibration: Affine | Isotonic | None,
) -> dict[str, float | None]:
    """The metrics of left-out rows, those of their order where the calibration keeps it.

    Each part of the rows was told by a calibration of its own, so that rows of different parts do
    not stand in the order in which one calibration, any of them, leaves them.
    """
    found = evaluate(unseen, targets, task, thresholds)
    if task == "multiclass" or not isinstance(calibration, Affine):
        return found
    return found | evaluate(now, targets, task, thresholds, OF_ORDER)


def _better(
    card: Card,
    logits: np.ndarray,
    targets: np.ndarray,
    settings: CalibrationSettings,
    data: dict[str, Any],
    names: Sequence[str],
) -> tuple[Affine | Isotonic | None, np.ndarray, dict[str, Any] | None]:
    """The calibration that is kept, its probabilities of rows that it has not seen, and why."""
    task, method = card.task, settings.method
    if method == "none":
        return None, apply(task, None, logits), None
    # What was fitted on these very rows looks better on them than it is: it has to go in any case.
    present = None if _fitted_on(card) == data["sha256"] else card.calibration
    fitted = fit_calibration(task, logits, targets, method, names)
    # The same holds for the new one: each row is told by a calibration of the others.
    unseen, as_it_is = (
        _cross_fitted(task, logits, targets, settings, names),
        apply(task, present, logits),
    )
    comparison = {"method": method, **compare(task, as_it_is, unseen, targets)}
    if comparison["kept"] == "new":
        return fitted, unseen, comparison
    return present, as_it_is, comparison


def _fitted_on(card: Card) -> JsonValue:
    """SHA-256 of the rows that the card's calibration was fitted on; None if there is none.

    They may be older than the rows that its thresholds were chosen on, which cards from before
    `fitted_on` name alone.
    """
    if card.calibration is None or card.decisions is None:
        return None
    decisions: dict[str, Any] = card.decisions
    return decisions.get("fitted_on", decisions.get("data", {}).get("sha256"))


def _fitted_now(
    card: Card, calibration: Affine | Isotonic | None, data: dict[str, Any]
) -> JsonValue:
    if calibration is None:
        return None
    return _fitted_on(card) if calibration is card.calibration else data["sha256"]


def fit_calibration(
    task: Task, logits: np.ndarray, targets: np.ndarray, method: Method, names: Sequence[str]
) -> Affine | Isotonic | None:
    """The calibration that fits these rows; None for `none`.

    Args:
        task: what the logits mean.
        logits: (row, output); for multi-class up to a constant a row.
        targets: label ids, or 0/1 a label for multi-label.
        method: of calibration.
        names: label of each output.

    Raises:
        DataError: a label with rows of one side only, or scores that rank it the wrong way round.
    """
    if method == "none":
        return None
    outputs = logits.shape[1]
    if method == "temperature" and task == "multiclass":
        scale = fit_temperature(logits, targets)
        return Affine(method=method, scales=(scale,) * outputs, offsets=(0.0,) * outputs)
    columns = _columns(task, logits, targets)
    for name, (_, truth) in zip(names, columns, strict=True):
        if not truth.any() or truth.all():
            raise DataError(f"All of them agree on {name!r}: some have to have it and some not.")
    if method == "temperature":
        scales = tuple(fit_temperature(x[:, None], y) for x, y in columns)
        return Affine(method=method, scales=scales, offsets=(0.0,) * outputs)
    if method == "isotonic":
        lines = [fit_isotonic(x, y) for x, y in columns]
        return Isotonic(logits=tuple(x for x, _ in lines), probs=tuple(y for _, y in lines))
    curves = [fit_platt(x, y) for x, y in columns]
    if min(scale for scale, _ in curves) <= 0:
        raise DataError(
            "The rows with a label score no higher than those without it, so there is nothing to "
            "calibrate; check that the labels are those that the probe was trained on."
        )
    return Affine(
        method=method, scales=tuple(a for a, _ in curves), offsets=tuple(b for _, b in curves)
    )


def apply(task: Task, calibration: Affine | Isotonic | None, logits: np.ndarray) -> np.ndarray:
    """Probabilities as the artefact would give them, in float64."""
    tensor = torch.from_numpy(logits)
    if calibration is None:
        return probabilities(task, tensor).double().numpy()
    return Calibrator(task, calibration)(tensor).double().numpy()


def _columns(
    task: Task, logits: np.ndarray, targets: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits and zeros and ones of every output, of the rows that were judged on it."""
    outputs = logits.shape[1]
    truth = np.eye(outputs)[targets] if task == "multiclass" else targets.reshape(-1, outputs)
    judged = [~np.isnan(truth[:, i]) for i in range(outputs)]
    return [(logits[rows, i], truth[rows, i].astype(np.int64)) for i, rows in enumerate(judged)]


def _cross_fitted(
    task: Task,
    logits: np.ndarray,
    targets: np.ndarray,
    settings: CalibrationSettings,
    names: Sequence[str],
) -> np.ndarray:
    """Probabilities of every row by a calibration of the other rows."""
    folds = KFold if task == "multilabel" or not _can_stratify(targets) else StratifiedKFold
    splitter = folds(min(NUM_FOLDS, len(targets)), shuffle=True, random_state=settings.seed)
    probs = np.empty_like(logits)
    for rest, held in splitter.split(logits, None if folds is KFold else targets):
        try:
            fitted = fit_calibration(task, logits[rest], targets[rest], settings.method, names)
        except DataError as error:
            raise DataError(
                f"There are too few rows to try the calibration on others ({error}); give more."
            ) from error
        probs[held] = apply(task, fitted, logits[held])
    return probs


def _can_stratify(targets: np.ndarray) -> bool:
    counts = np.bincount(targets)
    return int(counts[counts > 0].min()) >= NUM_FOLDS


def _kept_thresholds(card: Card, calibration: Affine | Isotonic | None) -> tuple[float, ...]:
    """Thresholds that decide as those on the card do, on probabilities of another calibration."""
    lines = card.thresholds or (0.5,) * card.shape.num_outputs
    logits = to_logits(np.array(lines))
    if isinstance(card.calibration, Affine):
        logits = (logits - card.calibration.offsets) / card.calibration.scales
    elif isinstance(card.calibration, Isotonic):
        knots = zip(lines, card.calibration.logits, card.calibration.probs, strict=True)
        logits = np.array([_first_logit(*line) for line in knots])
    (now,) = apply(card.task, calibration, logits[None])
    return tuple(now.tolist())


def _first_logit(prob: float, x: Sequence[float], y: Sequence[float]) -> float:
    """The lowest logit that a rising line takes to a probability or above; see `to_logits`."""
    if prob <= y[0] or prob > y[-1]:
        return to_logits(np.array([prob > y[-1]], dtype=np.float64)).item()
    right = int(np.searchsorted(y, prob))
    share = (prob - y[right - 1]) / (y[right] - y[right - 1])
    return x[right - 1] + share * (x[right] - x[right - 1])
