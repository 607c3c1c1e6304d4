"""Every metric against scikit-learn or a hand-made number, and None where it is undefined."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
    roc_curve,
)

from pillion.errors import ConfigError, DataError
from pillion.metrics import confusion, decide, evaluate
from pillion.metrics.classification import METRICS

TASKS = ("binary", "multiclass", "multilabel")


def column(*probs: float) -> np.ndarray:
    return np.array(probs, dtype=np.float64)[:, None]


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def drawn(task: str, num_rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that know something of their label ids, in float32 as a model gives them."""
    rng = np.random.default_rng(7)
    if task == "multiclass":
        label_ids = rng.integers(4, size=num_rows)
        logits = rng.normal(size=(num_rows, 4)) + np.eye(4)[label_ids]
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return probs.astype(np.float32), label_ids
    num_labels = 1 if task == "binary" else 3
    targets = rng.integers(2, size=(num_rows, num_labels))
    logits = rng.normal(size=targets.shape) + 2 * targets - 1
    probs = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return probs, targets[:, 0] if task == "binary" else targets.astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_same_metrics(task: str) -> None:
    assert tuple(evaluate(*drawn(task), task)) == METRICS


def test_binary_metrics_are_those_of_scikit_learn() -> None:
    probs, label_ids = drawn("binary")
    got = evaluate(probs, label_ids, "binary")
    scores = probs[:, 0].astype(np.float64)
    assert got["accuracy"] == pytest.approx(np.mean((scores >= 0.5) == label_ids))
    assert got["f1"] == pytest.approx(f1_score(label_ids, scores >= 0.5))
    assert got["auprc"] == pytest.approx(average_precision_score(label_ids, scores))
    assert got["auroc"] == pytest.approx(roc_auc_score(label_ids, scores))
    assert got["brier"] == pytest.approx(brier_score_loss(label_ids, scores))
    assert got["f1_micro"] is None


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_curves_with_tied_scores_are_those_of_scikit_learn(decimals: int) -> None:
    probs, label_ids = drawn("binary", num_rows=1500)
    tied = probs.round(decimals)
    got = evaluate(tied, label_ids, "binary")
    scores = tied[:, 0].astype(np.float64)
    fpr, tpr, _ = roc_curve(label_ids, scores, drop_intermediate=False)
    assert got["auprc"] == pytest.approx(average_precision_score(label_ids, scores), abs=1e-12)
    assert got["auroc"] == pytest.approx(roc_auc_score(label_ids, scores), abs=1e-12)
    assert got["tpr_at_fpr_1"] == pytest.approx(tpr[fpr <= 0.01].max(), abs=1e-12)


def test_multiclass_metrics_are_those_of_scikit_learn() -> None:
    probs, label_ids = drawn("multiclass")
    got = evaluate(probs, label_ids, "multiclass")
    decided = probs.argmax(axis=1)
    one_hot = np.eye(4)[label_ids]
    assert got["accuracy"] == pytest.approx(np.mean(decided == label_ids))
    assert got["f1"] == pytest.approx(f1_score(label_ids, decided, average="macro"))
    assert got["f1_micro"] == pytest.approx(f1_score(label_ids, decided, average="micro"))
    assert got["auprc"] == pytest.approx(average_precision_score(one_hot, probs, average="macro"))
    assert got["auroc"] == pytest.approx(roc_auc_score(one_hot, probs, average="macro"))
    assert got["brier"] == pytest.approx(np.square(probs - one_hot).sum(axis=1).mean())
    assert got["tpr_at_fpr_1"] is None


def test_multilabel_metrics_are_those_of_scikit_learn() -> None:
    probs, targets = drawn("multilabel")
    got = evaluate(probs, targets, "multilabel")
    decided = probs >= 0.5
    assert got["accuracy"] == pytest.approx(np.mean((decided == targets).all(axis=1)))
    assert got["f1"] == pytest.approx(f1_score(targets, decided, average="macro"))
    assert got["f1_micro"] == pytest.approx(f1_score(targets, decided, average="micro"))
    assert got["auprc"] == pytest.approx(average_precision_score(targets, probs, average="macro"))
    assert got["auroc"] == pytest.approx(roc_auc_score(targets, probs, average="macro"))
    assert got["brier"] == pytest.approx(np.square(probs - targets).mean())


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_rows_changes_nothing(task: str) -> None:
    probs, label_ids = drawn(task)
    order = np.random.default_rng(1).permutation(len(probs))
    got = evaluate(probs[order], label_ids[order], task)
    for name, value in evaluate(probs, label_ids, task).items():
        assert got[name] == pytest.approx(value)


@pytest.mark.parametrize("label_id", [0, 1])
def test_one_class_only_leaves_the_curves_undefined(label_id: int) -> None:
    got = evaluate(column(0.2, 0.7, 0.4), ids(label_id, label_id, label_id), "binary")
    assert got["auroc"] is None
    assert got["auprc"] is None
    assert got["tpr_at_fpr_1"] is None
    assert got["accuracy"] is not None


@pytest.mark.parametrize("prob", [0.1, 0.9])
def test_f1_without_a_positive_row_is_undefined(prob: float) -> None:
    assert evaluate(column(0.1, prob), ids(0, 0), "binary")["f1"] is None


def test_f1_of_a_probe_that_finds_nothing_is_zero() -> None:
    assert evaluate(column(0.1, 0.2), ids(0, 1), "binary")["f1"] == 0.0


def test_macro_averages_leave_out_labels_that_no_row_holds() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    got = evaluate(probs, ids(0, 1, 0), "multiclass")
    # Label 2 is decided once but holds no row: labels 0 (F1 = 2/3) and 1 (F1 = 1) remain.
    assert got["f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert got["auroc"] == pytest.approx((0.5 + 1) / 2)


def test_multilabel_rows_without_any_label_leave_f1_undefined() -> None:
    got = evaluate(np.full((2, 3), 0.4), np.zeros((2, 3), dtype=np.float32), "multilabel")
    assert got["f1"] is None
    assert got["f1_micro"] is None
    assert got["accuracy"] == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_without_rows_every_metric_is_undefined(task: str) -> None:
    probs, label_ids = drawn(task)
    assert set(evaluate(probs[:0], label_ids[:0], task).values()) == {None}
    assert not confusion(probs[:0], label_ids[:0], task).any()


@pytest.mark.parametrize(
    ("num_negatives", "defined"),
    [(99, set()), (100, {"tpr_at_fpr_1"}), (1000, {"tpr_at_fpr_1", "tpr_at_fpr_01"})],
)
def test_a_rate_that_the_negatives_cannot_resolve_is_undefined(
    num_negatives: int, defined: set[str]
) -> None:
    probs = column(0.9, *[0.1] * num_negatives)
    got = evaluate(probs, ids(1, *[0] * num_negatives), "binary")
    assert {name for name in got if name.startswith("tpr") and got[name] is not None} == defined


def test_the_true_positive_rate_is_the_best_within_the_limit() -> None:
    # Two of 200 negatives (1 %) may lie above: 0.9 and 0.8, so 0.85 and 0.7 are found, 0.5 is not.
    negatives = [0.9, 0.8, 0.6] + [0.1] * 197
    probs = column(0.85, 0.7, 0.5, 0.05, *negatives)
    got = evaluate(probs, ids(1, 1, 1, 1, *[0] * 200), "binary")
    assert got["tpr_at_fpr_1"] == 0.5


def test_points_on_a_straight_stretch_of_the_curve_count() -> None:
    """scikit-learn drops points between two others on a line; the best one may be among them."""
    probs = column(0.9, 0.8, 0.7, 0.6, *[0.9, 0.8, 0.7, 0.6], *[0.1] * 196)
    got = evaluate(probs, ids(1, 1, 1, 1, *[0] * 200), "binary")
    assert got["tpr_at_fpr_1"] == 0.5


def test_the_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    # Two bins: 0.1 with half of two rows positive, 0.9 with all of two rows positive.
    got = evaluate(column(0.1, 0.1, 0.9, 0.9), ids(0, 1, 1, 1), "binary")["ece"]
    assert got == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)


def test_certain_and_right_is_perfectly_calibrated() -> None:
    got = evaluate(column(0.0, 1.0), ids(0, 1), "binary")
    assert got["ece"] == 0.0
    assert got["brier"] == 0.0


def test_an_upper_edge_belongs_to_its_bin() -> None:
    # 0.2 is the upper edge of the bin (2/15, 3/15], where 0.15 lies too.
    got = evaluate(column(0.2, 0.15), ids(0, 1), "binary")["ece"]
    assert got == pytest.approx(abs(0.2 + 0.15 - 1) / 2)


def test_multiclass_calibration_is_of_the_top_label() -> None:
    probs = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert evaluate(probs, ids(0, 2), "multiclass")["ece"] == pytest.approx(0.3)


def test_a_threshold_is_reached_by_an_equal_probability() -> None:
    assert decide(column(0.4, 0.39), "binary", 0.4).tolist() == [[1], [0]]


def test_multilabel_thresholds_are_one_a_label() -> None:
    probs = np.array([[0.3, 0.3]])
    assert decide(probs, "multilabel", [0.2, 0.4]).tolist() == [[1, 0]]


def test_metrics_of_decisions_follow_the_threshold() -> None:
    probs, label_ids = column(0.2, 0.3, 0.4), ids(0, 1, 1)
    assert evaluate(probs, label_ids, "binary")["f1"] == 0.0
    assert evaluate(probs, label_ids, "binary", 0.25)["f1"] == 1.0


def test_confusion_counts_true_labels_down_and_decided_labels_across() -> None:
    got = confusion(column(0.2, 0.7, 0.9), ids(0, 0, 1), "binary")
    assert got.tolist() == [[1, 1], [0, 1]]
    probs = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    assert confusion(probs, ids(0, 2), "multiclass").tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_multilabel_confusion_has_one_table_a_label() -> None:
    probs, targets = drawn("multilabel")
    got = confusion(probs, targets, "multilabel")
    assert got.shape == (3, 2, 2)
    assert got.sum(axis=(1, 2)).tolist() == [200, 200, 200]


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"binary, multiclass, multilabel.*'multilabel'"):
        evaluate(column(0.5), ids(1), "multilable")


def test_thresholds_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 thresholds for 2 columns"):
        decide(np.full((1, 2), 0.5), "multilabel", [0.1, 0.2, 0.3])
    with pytest.raises(ConfigError, match="leave them out"):
        decide(np.full((1, 2), 0.5), "multiclass", 0.5)


@pytest.mark.parametrize("prob", [np.nan, -0.1, 1.1, np.inf])
def test_what_is_no_probability_is_refused(prob: float) -> None:
    with pytest.raises(DataError, match="not a number from 0 to 1"):
        evaluate(column(prob, 0.5), ids(0, 1), "binary")


@pytest.mark.parametrize("label_id", [-1, 2, 0.5, np.nan])
def test_what_is_no_label_id_is_refused(label_id: float) -> None:
    with pytest.raises(DataError, match="whole number from 0 to 1"):
        evaluate(column(0.5), np.array([label_id]), "binary")


def test_shapes_that_do_not_fit_the_task_are_refused() -> None:
    with pytest.raises(DataError, match="one, of the positive label"):
        evaluate(np.full((2, 2), 0.5), ids(0, 1), "binary")
    with pytest.raises(DataError, match=r"multilabel task needs \(2, 3\)"):
        evaluate(np.full((2, 3), 0.5), ids(0, 1), "multilabel")


def test_what_nobody_judged_is_in_no_metric() -> None:
    """Every metric of a label is that of the rows judged on it."""
    rng = np.random.default_rng(3)
    probs, targets = rng.random((400, 3)), (rng.random((400, 3)) < 0.4).astype(np.float32)
    targets[rng.random((400, 3)) < 0.3] = np.nan
    found = evaluate(probs, targets, "multilabel")
    judged = ~np.isnan(targets)
    each = [
        evaluate(probs[rows, i : i + 1], targets[rows, i].astype(int), "binary")
        for i, rows in enumerate(judged.T)
    ]
    for name in ("f1", "auprc", "auroc", "ece", "brier"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in each])), name
    pooled = evaluate(probs[judged][:, None], targets[judged].astype(int), "binary")
    assert found["f1_micro"] == pytest.approx(pooled["f1"])
    right = ((probs >= 0.5) == (targets > 0)) | ~judged
    assert found["accuracy"] == pytest.approx(right.all(1)[judged.any(1)].mean())
    counts = confusion(probs, targets, "multilabel").sum((1, 2))
    assert counts.tolist() == judged.sum(0).tolist()


def test_rows_that_nobody_judged_leave_every_metric_undefined() -> None:
    found = evaluate(np.full((2, 2), 0.5), np.full((2, 2), np.nan), "multilabel")
    assert set(found.values()) == {None}


def test_a_target_that_is_not_a_number_is_refused_where_rows_have_one_label() -> None:
    with pytest.raises(DataError, match="label id that is not a whole number"):
        evaluate(np.full((2, 1), 0.5), np.array([0.0, np.nan]), "binary")


def test_the_calibration_error_is_that_of_fifteen_bins_open_below() -> None:
    rng = np.random.default_rng(2)
    scores = np.concatenate([rng.random(500), np.arange(16) / 15])
    targets = (rng.random(516) < scores**2).astype(np.int64)
    gaps = 0.0
    for place in range(15):
        inside = (scores > place / 15) & (scores <= (place + 1) / 15)
        inside |= (place == 0) & (scores == 0)
        gaps += abs((scores[inside] - targets[inside]).sum())
    found = evaluate(scores[:, None], targets, "binary", names=("ece",))
    assert found["ece"] == pytest.approx(gaps / 516)


def test_zero_is_in_the_lowest_bin() -> None:
    assert evaluate(column(0.0, 0.06), ids(1, 0), "binary")["ece"] == pytest.approx(0.94 / 2)


def test_where_the_highest_scores_are_wrong_no_true_positive_is_within_the_limit() -> None:
    probs = column(0.5, *[0.9] * 5, *[0.1] * 100)
    assert evaluate(probs, ids(1, *[0] * 105), "binary")["tpr_at_fpr_1"] == 0.0


def test_a_binary_task_has_one_column() -> None:
    for columns in (0, 2):
        with pytest.raises(DataError, match=f"Got {columns} columns"):
            evaluate(np.full((2, columns), 0.5), ids(0, 1), "binary")


def test_rows_that_are_right_where_they_are_judged_are_right() -> None:
    probs = np.array([[0.9, 0.9], [0.1, 0.9], [0.9, 0.1], [0.9, 0.9]])
    targets = np.array([[1.0, np.nan], [1.0, np.nan], [np.nan, 1.0], [np.nan, np.nan]])
    found = evaluate(probs, targets, "multilabel")
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx((2 / 3 + 0) / 2)
