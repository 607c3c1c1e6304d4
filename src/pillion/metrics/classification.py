"""Metrics of probabilities against label ids, for binary, multi-class and multi-label tasks.

Promises a float where a metric is defined and None where it is not, without a warning. Every task
is brought to columns of zeros and ones first, so one formula serves all three. Does not know label
names, files or models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.metrics import confusion_matrix

from pillion.errors import ConfigError, DataError, unknown_name

TASKS = ("binary", "multiclass", "multilabel")
METRICS = (
    "accuracy",
    "f1",
    "f1_micro",
    "auprc",
    "auroc",
    "tpr_at_fpr_1",
    "tpr_at_fpr_01",
    "ece",
    "brier",
)
WHY_UNDEFINED = {
    "f1": "no row has the label",
    "f1_micro": "one label is positive, so it would repeat F1 or accuracy",
    "auprc": "every row is on one side",
    "auroc": "every row is on one side",
    "tpr_at_fpr_1": "takes a binary probe, both sides and 100 rows without the label",
    "tpr_at_fpr_01": "takes a binary probe, both sides and 1,000 rows without the label",
}
"""What leaves a metric undefined; the others are where there is a row."""
NUM_ECE_BINS = 15
DEFAULT_THRESHOLD = 0.5
UNJUDGED = -1
"""In targets, where it was not judged whether the row has the label."""

_ColumnMetric = Callable[[np.ndarray, np.ndarray], float | None]


def evaluate(
    probs: Float[np.ndarray, "row label"],
    label_ids: Shaped[np.ndarray, "row ..."],
    task: str,
    thresholds: float | Sequence[float] | None = None,
    names: Sequence[str] = METRICS,
) -> dict[str, float | None]:
    """Every metric of `METRICS`, or some: None where the rows or the task leave one undefined.

    `f1`, `auprc` and `auroc` are of the positive label for a binary task, else macro averages over
    the labels that the rows hold (for the two curves: that some rows hold and some do not). Which
    labels are averaged depends on the targets alone, so two probes on the same rows are averaged
    over the same.

    - `accuracy`: share of rows that are right in every label (multi-label: subset accuracy)
    - `f1_micro`: over all decisions together; None for a binary task
    - `tpr_at_fpr_1`, `tpr_at_fpr_01`: highest true positive rate at a false positive rate of at
      most 1 % (0.1 %); binary only, and None with fewer than 100 (1,000) negative rows
    - `ece`: expected calibration error, 15 bins ((m - 1) / 15, m / 15] (Guo et al. 2017, equation
      3), of the top label's probability (multi-class) or of each label's probability, averaged over
      labels
    - `brier`: squared error, summed over labels for multi-class (Brier 1950), else averaged over
      labels

    Args:
        probs: probabilities in [0, 1]; binary: one column, of the positive label.
        label_ids: (row,) ids for binary (0 or 1) and multi-class; (row, label) of 0 or 1 for
            multi-label, NaN where not judged: such entries are in no metric.
        task: `binary`, `multiclass` or `multilabel`.
        thresholds: as in `decide`.
        names: the metrics that are wanted; curves of many labels take their time.

    Raises:
        ConfigError: an unknown task, or thresholds that do not fit it.
        DataError: shapes, label ids or probabilities that cannot be used.
    """
    scores, targets = _columns(probs, label_ids, task)
    decisions = decide(probs, task, thresholds)
    if not _is_judged(targets).any():
        return dict.fromkeys(names)
    binary = task == "binary"
    column = targets.ravel(), scores.ravel()
    metrics: dict[str, Callable[[], float | None]] = {
        "accuracy": lambda: _accuracy(targets, decisions),
        "f1": lambda: _f1(targets, decisions),
        "f1_micro": lambda: (
            None if binary else _f1(targets.reshape(-1, 1), decisions.reshape(-1, 1))
        ),
        "auprc": lambda: _macro(_auprc, targets, scores),
        "auroc": lambda: _macro(_auroc, targets, scores),
        "tpr_at_fpr_1": lambda: _tpr_at_fpr(*column, 0.01) if binary else None,
        "tpr_at_fpr_01": lambda: _tpr_at_fpr(*column, 0.001) if binary else None,
        "ece": lambda: _ece_of_task(targets, scores, task),
        "brier": lambda: _brier_of_task(targets, scores, task),
    }
    return {name: metrics[name]() for name in names}


def leading_metric(task: str) -> str:
    """What is compared where one number must do: `accuracy` for multi-class, else `auprc`.

    With rare positives accuracy says little.
    """
    return "accuracy" if task == "multiclass" else "auprc"


def decide(
    probs: Float[np.ndarray, "row label"],
    task: str,
    thresholds: float | Sequence[float] | None = None,
) -> Int[np.ndarray, "row label"]:
    """One where the label is given, else zero, in the columns of `probs`.

    Multi-class gives each row its most probable label (the first of equals); the other tasks give a
    label whose probability is at least its threshold.

    Args:
        probs: as in `evaluate`.
        task: as in `evaluate`.
        thresholds: one number for all labels, or one a label; 0.5 by default; none for multi-class.

    Raises:
        ConfigError: an unknown task, or thresholds that do not fit it.
    """
    _check_task(task)
    num_labels = probs.shape[1]
    if task == "multiclass":
        if thresholds is not None:
            raise ConfigError(
                "Thresholds were given for a multiclass task, which takes the most probable label; "
                "leave them out."
            )
        return np.eye(num_labels, dtype=np.int64)[probs.argmax(axis=1)]
    limits = np.asarray(DEFAULT_THRESHOLD if thresholds is None else thresholds, dtype=np.float64)
    if limits.shape not in ((), (num_labels,)):
        raise ConfigError(
            f"Got {limits.size} thresholds for {num_labels} columns of probabilities; "
            "give one number, or one a column."
        )
    # In float64: a threshold rounded to the dtype of the probabilities could land on a score.
    return (probs.astype(np.float64) >= limits).astype(np.int64)


def confusion(
    probs: Float[np.ndarray, "row label"],
    label_ids: Shaped[np.ndarray, "row ..."],
    task: str,
    thresholds: float | Sequence[float] | None = None,
) -> Int[np.ndarray, "... true decided"]:
    """Counts of rows by true (second last axis) and decided label (last axis).

    The shape is (2, 2) for binary, (label, label) for multi-class and (label, 2, 2) for
    multi-label. Arguments and errors are those of `evaluate`.
    """
    _, targets = _columns(probs, label_ids, task)
    decisions = decide(probs, task, thresholds)
    num_labels = targets.shape[1]
    if task == "multiclass":
        return _counts(targets.argmax(axis=1), decisions.argmax(axis=1), num_labels)
    judged = _is_judged(targets).T
    counts = np.stack(
        [_counts(targets[rows, i], decisions[rows, i], 2) for i, rows in enumerate(judged)]
    )
    return counts.squeeze(0) if task == "binary" else counts


def _columns(
    probs: np.ndarray, label_ids: np.ndarray, task: str
) -> tuple[Float[np.ndarray, "row label"], Int[np.ndarray, "row label"]]:
    """Scores in float64 and targets of 0, 1 or `UNJUDGED`, both (row, label), after every check."""
    _check_task(task)
    _check_shapes(probs, label_ids, task)
    num_labels = probs.shape[1]
    if not ((probs >= 0) & (probs <= 1)).all():
        raise DataError(
            "Got a probability that is not a number from 0 to 1; turn logits into probabilities."
        )
    num_known = num_labels if task == "multiclass" else 2
    is_known = np.isin(label_ids, np.arange(num_known))
    if not (is_known | (np.isnan(label_ids) & (task == "multilabel"))).all():
        raise DataError(
            f"Got a label id that is not a whole number from 0 to {num_known - 1}, for a {task} "
            "task; encode the labels with the label space of the probe."
        )
    ids = np.where(is_known, label_ids, UNJUDGED).astype(np.int64)
    if task == "multiclass":
        ids = np.eye(num_labels, dtype=np.int64)[ids]
    return probs.astype(np.float64), ids.reshape(len(ids), num_labels)


def _check_task(task: str) -> None:
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)


def _check_shapes(probs: np.ndarray, label_ids: np.ndarray, task: str) -> None:
    num_rows, num_labels = probs.shape
    wanted = (num_rows, num_labels) if task == "multilabel" else (num_rows,)
    if label_ids.shape != wanted:
        raise DataError(
            f"Got label ids of shape {label_ids.shape} for probabilities of shape {probs.shape}; "
            f"a {task} task needs {wanted}."
        )
    if task == "binary" and num_labels != 1:
        raise DataError(
            f"Got {num_labels} columns of probabilities for a binary task; "
            "give one, of the positive label."
        )


def _is_judged(targets: np.ndarray) -> np.ndarray:
    return targets >= 0


def _has_both(targets: np.ndarray) -> bool:
    return bool(targets.any() and not targets.all())


def _macro(metric: _ColumnMetric, targets: np.ndarray, values: np.ndarray) -> float | None:
    """The mean of a metric over the columns where it is defined, of the rows judged in each."""
    judged = _is_judged(targets).T
    each = [metric(targets[rows, i], values[rows, i]) for i, rows in enumerate(judged)]
    defined = [value for value in each if value is not None]
    return float(np.mean(defined)) if defined else None


def _accuracy(targets: np.ndarray, decisions: np.ndarray) -> float:
    """The share of rows, of those judged on any label, that are right in every one judged."""
    judged = _is_judged(targets)
    right = np.all(np.where(judged, targets == decisions, True), axis=1)
    return float(right[judged.any(axis=1)].mean())


def _f1(targets: np.ndarray, decisions: np.ndarray) -> float | None:
    """The mean F1 of the columns that have a positive row."""
    # Without one recall is undefined, and F1 would only repeat that none was there.
    true, given = targets > 0, np.where(_is_judged(targets), decisions, 0)
    hits, decided = np.where(true, given, 0).sum(axis=0), given.sum(axis=0)
    positives, known = true.sum(axis=0), true.any(axis=0)
    each = 2 * hits[known] / (positives + decided)[known]
    return float(each.mean()) if known.any() else None


def _auprc(targets: np.ndarray, scores: np.ndarray) -> float | None:
    """Average precision: the precision at each threshold, weighted by the recall it adds."""
    if not _has_both(targets):
        return None
    hits, misses = _ranked(targets, scores)
    return float((np.diff(hits, prepend=0) * hits / (hits + misses)).sum() / hits[-1])


def _auroc(targets: np.ndarray, scores: np.ndarray) -> float | None:
    if not _has_both(targets):
        return None
    hits, misses = _ranked(targets, scores)
    before = np.concatenate([[0], hits[:-1]])
    area = ((hits + before) * np.diff(misses, prepend=0)).sum() / 2
    return float(area / (hits[-1] * misses[-1]))


def _tpr_at_fpr(targets: np.ndarray, scores: np.ndarray, limit: float) -> float | None:
    # With fewer negatives than 1 / limit one false positive is already over the limit.
    if not _has_both(targets):
        return None
    hits, misses = _ranked(targets, scores)
    if misses[-1] < round(1 / limit):
        return None
    return float(hits[misses / misses[-1] <= limit].max(initial=0) / hits[-1])


def _ranked(
    targets: np.ndarray, scores: np.ndarray
) -> tuple[Int[np.ndarray, " threshold"], Int[np.ndarray, " threshold"]]:
    """Positive and negative rows at or above each distinct score, the highest score first.

    Intervals ask for it thousands of times; scikit-learn takes ten times as long on few rows.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
    hits = np.cumsum(targets[order])[ends]
    return hits, ends + 1 - hits


def _ece_of_task(targets: np.ndarray, scores: np.ndarray, task: str) -> float | None:
    if task != "multiclass":
        return _macro(_ece, targets, scores)
    top = scores.argmax(axis=1)[:, None]
    right, sure = (np.take_along_axis(one, top, axis=1).ravel() for one in (targets, scores))
    return _ece(right, sure)


def _ece(targets: np.ndarray, scores: np.ndarray) -> float | None:
    if not len(targets):
        return None
    edges = np.linspace(0, 1, NUM_ECE_BINS + 1)
    bin_ids = np.digitize(scores, edges[1:-1], right=True)
    # |sum of (score - target)| of a bin is its gap times its number of rows.
    gaps = np.bincount(bin_ids, weights=scores - targets)
    return float(np.abs(gaps).sum() / len(scores))


def _brier_of_task(targets: np.ndarray, scores: np.ndarray, task: str) -> float | None:
    if task == "multiclass":
        return float(np.square(scores - targets).mean(axis=0).sum())
    return _macro(_brier, targets, scores)


def _brier(targets: np.ndarray, scores: np.ndarray) -> float | None:
    return float(np.square(scores - targets).mean()) if len(targets) else None


def _counts(true_ids: np.ndarray, decided_ids: np.ndarray, num_labels: int) -> np.ndarray:
    if not len(true_ids):
        return np.zeros((num_labels, num_labels), dtype=np.int64)
    return confusion_matrix(true_ids, decided_ids, labels=np.arange(num_labels))
