"""What logits, losses, class weights and decisions mean for each task, on hand-made numbers."""

from __future__ import annotations

import math

import jaxtyping
import pytest
import torch

from pillion.probe.task import TASKS, class_weights, loss, num_outputs, probabilities, verdict

LABELS = ("calm", "angry", "sad")


def log(x: float) -> float:
    return math.log(x)


def logit(p: float) -> float:
    return log(p) - log(1 - p)


def test_a_binary_head_has_one_logit_and_the_others_one_a_label() -> None:
    assert [num_outputs(task, 2) for task in TASKS] == [1, 2, 2]
    assert num_outputs("multiclass", 5) == num_outputs("multilabel", 5) == 5


# --- probabilities


def test_binary_probabilities_are_of_the_positive_label() -> None:
    logits = torch.tensor([[0.0], [logit(0.9)], [-100.0], [100.0]])

    assert probabilities("binary", logits)[:, 0].tolist() == pytest.approx([0.5, 0.9, 0, 1])


def test_multiclass_probabilities_add_up_to_one_and_multilabel_ones_need_not() -> None:
    logits = torch.tensor([[log(1), log(2), log(5)]])

    assert probabilities("multiclass", logits).tolist() == [pytest.approx([1 / 8, 2 / 8, 5 / 8])]
    assert probabilities("multilabel", logits).tolist() == [pytest.approx([1 / 2, 2 / 3, 5 / 6])]


@pytest.mark.parametrize("task", TASKS)
def test_probabilities_of_extreme_bf16_logits_are_finite_fp32(task: str) -> None:
    logits = torch.tensor([[1e4], [-1e4]], dtype=torch.bfloat16)
    probs = probabilities(task, logits)

    assert probs.dtype == torch.float32
    assert probs.isfinite().all()
    assert ((probs >= 0) & (probs <= 1)).all()


def test_logits_without_a_batch_are_refused_while_testing() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        probabilities("binary", torch.zeros(3))


# --- losses


def test_binary_loss_is_the_cross_entropy_of_each_row_times_the_weight_of_its_class() -> None:
    logits = torch.tensor([[logit(0.9)], [logit(0.9)]])
    got = loss("binary", logits, torch.tensor([1, 0]), torch.tensor([0.5, 2.0]))

    assert got.tolist() == pytest.approx([-2 * log(0.9), -0.5 * log(0.1)], rel=1e-5)


def test_multiclass_loss_is_the_cross_entropy_of_each_row_times_the_weight_of_its_class() -> None:
    logits = torch.tensor([[log(1), log(2), log(5)]]).repeat(2, 1)
    got = loss("multiclass", logits, torch.tensor([2, 0]), torch.tensor([3.0, 1.0, 0.5]))

    assert got.tolist() == pytest.approx([-0.5 * log(5 / 8), -3 * log(1 / 8)], rel=1e-5)


def test_multilabel_loss_is_the_mean_over_labels_with_weighted_positives() -> None:
    logits = torch.tensor([[logit(0.9), logit(0.2), logit(0.5)]])
    got = loss("multilabel", logits, torch.tensor([[1, 0, 1]]), torch.tensor([2.0, 7.0, 4.0]))

    assert got.tolist() == pytest.approx([-(2 * log(0.9) + log(0.8) + 4 * log(0.5)) / 3], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("task", TASKS)
def test_targets_may_be_any_integers(task: str, dtype: torch.dtype) -> None:
    outputs = num_outputs(task, 2)
    targets = torch.tensor([[0, 1], [1, 1]] if task == "multilabel" else [0, 1], dtype=dtype)
    got = loss(task, torch.zeros(2, outputs), targets, torch.ones(2))

    assert got.tolist() == pytest.approx([log(2)] * 2)


@pytest.mark.parametrize("task", TASKS)
def test_a_loss_of_extreme_logits_is_finite_and_in_fp32(task: str) -> None:
    logits = torch.full((2, num_outputs(task, 2)), -1e4, dtype=torch.bfloat16)
    targets = torch.ones((2, 2) if task == "multilabel" else 2, dtype=torch.long)
    got = loss(task, logits, targets, torch.ones(2))

    assert got.dtype == torch.float32
    assert got.isfinite().all()


# --- class weights


def test_weighted_classes_count_the_same_and_the_mean_weight_of_rows_is_one() -> None:
    targets = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = class_weights("multiclass", targets, 3)
    totals = torch.bincount(targets) * weights

    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert totals.tolist() == pytest.approx([10 / 3] * 3)
    assert weights[targets].mean().item() == pytest.approx(1)


def test_binary_class_weights_are_of_the_negative_and_the_positive_label() -> None:
    weights = class_weights("binary", torch.tensor([0, 0, 0, 1]), 2)

    assert weights.tolist() == pytest.approx([4 / 6, 4 / 2])


def test_a_class_without_rows_leaves_the_mean_weight_at_one() -> None:
    """Absent classes were counted, so that all weights, and with them the loss, were too small."""
    targets = torch.tensor([0, 0, 0, 2])
    weights = class_weights("multiclass", targets, 4)

    assert weights.isfinite().all()
    assert weights[targets].mean().item() == pytest.approx(1)


def test_multilabel_weights_are_negatives_per_positive_of_each_label() -> None:
    targets = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 1], [0, 1, 1]])
    weights = class_weights("multilabel", targets, 3)

    assert weights.tolist() == pytest.approx([3, 1, 1 / 4])


def test_a_label_that_no_row_has_keeps_a_finite_weight() -> None:
    weights = class_weights("multilabel", torch.tensor([[1, 0], [0, 0]]), 2)

    assert weights.tolist() == pytest.approx([1, 1])


def test_classes_count_the_same_by_what_their_rows_count() -> None:
    """Counted by rows, the label of a heavier set got the weight of a rare one on top of its own.

    So did a label that rows have with a probability: of none that is a half or more it was the
    number of all rows.
    """
    ids, rows = torch.tensor([0, 0, 0, 1]), torch.tensor([0.5, 0.5, 0.5, 2.5])
    weights = class_weights("binary", ids, 2, rows)
    assert (torch.bincount(ids, rows * weights[ids])).tolist() == pytest.approx([2, 2])
    probs = torch.tensor([0.1, 0.3, 0.2, 0.4])
    weights = class_weights("binary", probs, 2)
    assert [weights[0] * (1 - probs).sum(), weights[1] * probs.sum()] == pytest.approx([2, 2])
    marks = torch.tensor([[1, 0.25], [0, math.nan], [0, 0.25], [0, 0.5]])
    weights = class_weights("multilabel", marks, 2, torch.tensor([2.0, 1.0, 0.5, 0.5]))
    assert weights.tolist() == pytest.approx([2 / 2, (3 - 0.875) / 0.875])


# --- verdicts


def test_a_binary_verdict_is_positive_from_the_threshold_on() -> None:
    for prob, label in ((0.29, "safe"), (0.3, "unsafe"), (0.31, "unsafe")):
        said = verdict("guard", "binary", ("safe", "unsafe"), [prob], (0.3,))
        assert (said.label, said.labels, said.threshold) == (label, (label,), 0.3)
        assert said.probs == pytest.approx({"safe": 1 - prob, "unsafe": prob})
        assert said.probe == "guard"


def test_without_thresholds_one_half_decides() -> None:
    said = verdict("guard", "binary", ("safe", "unsafe"), [0.5], None)
    assert (said.label, said.threshold) == ("unsafe", 0.5)

    said = verdict("mood", "multilabel", LABELS, [0.49, 0.5, 0.9], None)
    assert said.labels == ("angry", "sad")


def test_a_multiclass_verdict_is_the_most_probable_label() -> None:
    said = verdict("mood", "multiclass", LABELS, [0.2, 0.45, 0.35], None)

    assert (said.label, said.labels, said.threshold) == ("angry", ("angry",), None)
    assert said.probs == {"calm": 0.2, "angry": 0.45, "sad": 0.35}


def test_the_first_of_equally_probable_labels_is_taken() -> None:
    assert verdict("mood", "multiclass", LABELS, [0.2, 0.4, 0.4], None).label == "angry"


def test_a_multilabel_verdict_holds_every_label_that_reaches_its_own_threshold() -> None:
    said = verdict("mood", "multilabel", LABELS, [0.6, 0.3, 0.8], (0.7, 0.3, 0.1))

    assert (said.label, said.labels) == ("angry,sad", ("angry", "sad"))
    assert said.probs == {"calm": 0.6, "angry": 0.3, "sad": 0.8}


def test_a_multilabel_verdict_may_hold_no_label() -> None:
    said = verdict("mood", "multilabel", LABELS, [0.1, 0.1, 0.1], None)

    assert (said.label, said.labels) == ("", ())


def test_another_number_of_probabilities_than_labels_is_refused() -> None:
    for task, thresholds in (("multiclass", None), ("multilabel", (0.5, 0.5, 0.5))):
        with pytest.raises(ValueError, match="zip"):
            verdict("mood", task, LABELS, [0.5, 0.5], thresholds)


def test_a_label_that_nobody_judged_adds_no_loss_and_no_gradient() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]], requires_grad=True)
    targets, weights = torch.tensor([[1.0, math.nan], [0.0, 1.0]]), torch.tensor([1.5, 3.0])
    judged = loss("multilabel", logits, targets.nan_to_num(0), weights)
    found = loss("multilabel", logits, targets, weights)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient[0, 1] == 0 and gradient.isfinite().all() and (gradient != 0).sum() == 3
    left_out = torch.nn.functional.softplus(logits[0, 1]) / 2
    torch.testing.assert_close(found, judged - torch.stack([left_out, torch.tensor(0.0)]))


def test_the_weights_of_labels_are_of_the_rows_that_were_judged() -> None:
    targets = torch.tensor([[1, 0], [0, math.nan], [0, 1], [0, math.nan]])
    assert class_weights("multilabel", targets, 2).tolist() == [3.0, 1.0]


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.4, 3.0]])
def test_probabilities_of_0_and_1_cost_what_labels_do_and_others_lie_between(
    weights: list[float],
) -> None:
    logits, each = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor(weights)
    sides = [loss("binary", logits, torch.full((3,), label), each) for label in (0, 1)]
    ends = [loss("binary", logits, torch.full((3,), float(label)), each) for label in (0, 1)]
    torch.testing.assert_close(ends, sides)
    between = loss("binary", logits, torch.full((3,), 0.25), each)
    torch.testing.assert_close(between, 0.75 * sides[0] + 0.25 * sides[1])
