"""Calibration and decisions chosen on labelled rows, and what the revised probe then says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss as sklearn_log_loss

from made_probes import LABELS, made_artefact, made_rows
from pillion.errors import ConfigError, DataError
from pillion.evals import (
    CalibrationSettings,
    Operating,
    calibrate,
    check_wishes,
    chosen_rows,
    notes_of,
    own_rows,
    raw_artefact,
)
from pillion.evals.calibrate import Method, apply, fit_calibration
from pillion.evals.conformal import fit_conformal
from pillion.evals.rates import undecided
from pillion.metrics import evaluate, log_loss
from pillion.metrics.thresholds import to_logits
from pillion.probe import Artefact
from pillion.probe.calibration import MOST_LOGIT, Affine
from pillion.probe.decisions import abstains

DATA = {"path": "rows.csv", "sha256": "f" * 64, "num_rows": 600}
TASKS = tuple(LABELS)


def rows(task: str, count: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Probabilities of an overconfident probe, targets, and the logits behind them."""
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        targets = rng.integers(3, size=count)
        logits = 3 * (rng.normal(size=(count, 3)) + 2 * np.eye(3)[targets])
    else:
        shape = (count, 1 if task == "binary" else 3)
        targets = (rng.random(shape) < 0.3).astype(np.int64)
        logits = 3 * (rng.normal(size=shape) * 1.5 + np.where(targets, 1.0, -2.0))
        targets = targets[:, 0] if task == "binary" else targets.astype(np.float32)
    tensor = torch.tensor(logits, dtype=torch.float32)
    return made_artefact(task).probabilities(tensor).double().numpy(), targets, tensor


def revised(
    task: str, wanted: CalibrationSettings, count: int = 600, **facts: Any
) -> tuple[Artefact, dict[str, Any]]:
    probs, targets, _ = rows(task, count)
    return calibrate(made_artefact(task, **facts), probs, targets, wanted, DATA)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_calibration_brings_the_error_down_on_other_rows(task: str, method: Method) -> None:
    probe, found = revised(task, CalibrationSettings(method))
    probs, targets, logits = rows(task, seed=1)
    before = np.abs(probs - _columns(task, targets)).mean()
    assert found["after"]["brier"] < found["before"]["brier"]
    assert found["after"]["ece"] < found["before"]["ece"] - 0.02
    now = probe.probabilities(logits).double().numpy()
    squared = [((p - _columns(task, targets)) ** 2).sum() for p in (now, probs)]
    assert squared[0] < squared[1], before


def _columns(task: str, targets: np.ndarray) -> np.ndarray:
    return np.eye(3)[targets] if task == "multiclass" else targets.reshape(len(targets), -1)


@pytest.mark.parametrize("method", ["temperature", "platt"])
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_without_a_wish_for_thresholds_decisions_stay_as_they_are(
    task: str, method: Method
) -> None:
    lines = (0.2,) if task == "binary" else (0.2, 0.5, 0.9)
    probe, _ = revised(task, CalibrationSettings(method), thresholds=lines)
    _, _, logits = rows(task, seed=1)
    old = made_artefact(task, thresholds=lines)
    for row in range(len(logits)):
        now, before = (
            one.verdict(one.probabilities(logits[row : row + 1])[0].tolist()).labels
            for one in (probe, old)
        )
        assert now == before


def decisions(probe: Artefact) -> torch.Tensor:
    """Of which rows that no calibration saw it says yes."""
    _, _, logits = rows("binary", seed=1)
    return probe.probabilities(logits)[:, 0] >= (probe.card.thresholds or (0.5,))[0]


def test_decisions_stay_through_a_second_calibration_too() -> None:
    once, _ = revised("binary", CalibrationSettings("platt"), thresholds=(0.2,))
    probs, targets, _ = rows("binary", seed=2)
    twice, found = calibrate(once, probs, targets, CalibrationSettings("temperature"), DATA)
    chosen = [decisions(one) for one in (made_artefact("binary", thresholds=(0.2,)), once, twice)]
    assert torch.equal(chosen[0], chosen[1]) and torch.equal(chosen[0], chosen[2])
    # What the second calls `before` is what the first had made of the probe.
    now = once.probabilities(torch.from_numpy(to_logits(probs))).double().numpy()
    assert found["before"]["brier"] == pytest.approx(((now[:, 0] - targets) ** 2).mean(), abs=1e-6)


def certain(count: int = 4000) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Of a probe that is certain of many rows, and not always right."""
    rng = np.random.default_rng(1)
    targets = (rng.random(count) < 0.4).astype(np.int64)
    logits = 12 * (rng.normal(size=(count, 1)) + np.where(targets, 1.2, -1.2)[:, None])
    tensor = torch.tensor(logits, dtype=torch.float32)
    return made_artefact("binary").probabilities(tensor).double().numpy(), targets, tensor


def test_rows_of_which_a_probe_is_certain_are_served_as_they_were_calibrated() -> None:
    """Logits that fp32 probabilities do not tell apart were fitted as one and served as many: a
    threshold that no harmless row reached by what was told was reached by some."""
    probs, targets, logits = certain()
    wanted = CalibrationSettings("temperature", Operating(target_fpr=0.001))
    probe, found = calibrate(made_artefact("binary"), probs, targets, wanted, DATA)
    (told,), served = found["thresholds"], probe.probabilities(logits)[:, 0].double().numpy()
    stopped = served >= told["threshold"]
    assert stopped[targets == 0].mean() == told["fpr"] <= 0.001
    assert stopped[targets == 1].mean() == told["recall"]
    assert to_logits(np.ones(1)).item() == pytest.approx(MOST_LOGIT, abs=1e-9)


def test_a_probe_that_always_says_yes_does_so_when_it_is_calibrated() -> None:
    """A threshold of 0 was carried over to a line that rows of low logits lay below."""
    probs, targets, logits = certain()
    probe = made_artefact("binary", thresholds=(0.0,))
    now, _ = calibrate(probe, probs, targets, CalibrationSettings("temperature"), DATA)
    verdicts = [now.verdict(one) for one in now.probabilities(logits).tolist()]
    assert {one.label for one in verdicts} == {"yes"}


def test_a_threshold_on_an_isotonic_line_is_found_again() -> None:
    once, _ = revised("binary", CalibrationSettings("isotonic"), thresholds=(0.2,))
    probs, targets, _ = rows("binary", seed=2)
    twice, _ = calibrate(once, probs, targets, CalibrationSettings("platt"), DATA)
    chosen = [decisions(one) for one in (once, twice)]
    # All of a flat piece is on one side of a threshold, so a few rows may change.
    assert 0.2 < chosen[0].float().mean() < 0.5
    assert (chosen[0] != chosen[1]).float().mean() < 0.05


def test_a_multiclass_calibration_by_temperature_keeps_the_label() -> None:
    probe, _ = revised("multiclass", CalibrationSettings("temperature"))
    _, _, logits = rows("multiclass", seed=1)
    assert torch.equal(probe.probabilities(logits).argmax(1), logits.argmax(1))


@pytest.mark.parametrize("task", TASKS)
def test_the_card_on_disk_holds_what_was_found(task: str, tmp_path: Path) -> None:
    wanted = CalibrationSettings("platt", Operating(target_precision=0.6), coverage=0.9)
    probe, found = revised(task, wanted)
    probe.save(tmp_path / "mood")
    loaded = Artefact.load(tmp_path / "mood")
    assert loaded.card == probe.card
    assert loaded.card.decisions == json.loads(json.dumps(found))
    assert found["data"] == DATA
    assert found["wishes"] == {"target_precision": 0.6, "coverage": 0.9}
    assert raw_artefact(loaded).card.calibration is None


def test_a_target_rate_is_kept_on_the_rows_and_its_interval_holds_the_threshold() -> None:
    _, found = revised("binary", CalibrationSettings("platt", Operating(target_fpr=0.05)))
    (line,) = found["thresholds"]
    assert line["label"] == "yes"
    assert line["fpr"] <= 0.05
    low, high = line["threshold_interval"]
    assert low <= line["threshold"] <= high
    for rate in ("fpr", "recall", "precision"):
        assert line[f"{rate}_interval"][0] <= line[rate] <= line[f"{rate}_interval"][1]


def test_every_label_of_a_multilabel_probe_has_a_threshold_of_its_own() -> None:
    probe, found = revised("multilabel", CalibrationSettings("none", Operating(best_f1=True)))
    assert [line["label"] for line in found["thresholds"]] == list(LABELS["multilabel"])
    assert probe.card.thresholds == tuple(line["threshold"] for line in found["thresholds"])


def test_costs_move_the_threshold_to_where_they_balance() -> None:
    wanted = Operating(cost_fp=1.0, cost_fn=4.0)
    probe, found = revised("binary", CalibrationSettings("platt", wanted), count=4000)
    assert probe.card.thresholds is not None
    assert probe.card.thresholds[0] == pytest.approx(0.2, abs=0.02)
    assert found["escalation"] is None


def test_a_rate_of_none_or_all_of_the_rows_has_an_interval_that_is_no_point() -> None:
    """Resamples of 30 harmless rows none of which was flagged told a rate of 0 to 0."""
    probs = np.linspace(0.01, 0.99, 60)[:, None]
    targets = (probs[:, 0] > 0.5).astype(np.int64)
    wanted = CalibrationSettings("none", Operating(target_fpr=0.05, abstain_band=(0.5, 0.5)))
    _, found = calibrate(made_artefact("binary"), probs, targets, wanted, DATA)
    (line,) = found["thresholds"]
    told = [line[f"{rate}_interval"] for rate in ("fpr", "recall", "precision")]
    assert [line["fpr"], line["recall"], line["precision"]] == [0, 1, 1]
    assert told == [
        pytest.approx(ends, abs=1e-4) for ends in ([0, 0.1135], [0.8865, 1], [0.8865, 1])
    ]
    assert found["escalation"]["share"] == 0
    assert found["escalation"]["share_interval"] == pytest.approx([0, 0.0602], abs=1e-4)


def test_two_thresholds_hand_on_what_lies_between_and_say_what_it_costs() -> None:
    wanted = Operating(target_fpr=0.02, target_fnr=0.02, cost_escalation=2.0)
    probe, found = revised("binary", CalibrationSettings("platt", wanted))
    assert probe.card.abstain is not None and probe.card.thresholds is not None
    ((low, high),) = probe.card.abstain
    assert low < high == probe.card.thresholds[0]
    said = found["escalation"]
    _, targets, logits = rows("binary")
    verdicts = [probe.verdict(p) for p in probe.probabilities(logits).tolist()]
    assert said["share"] == pytest.approx(np.mean([v.abstained for v in verdicts]))
    assert said["cost_of_escalation"] == pytest.approx(2 * said["share"])
    right = [v.label == LABELS["binary"][t] for v, t in zip(verdicts, targets, strict=True)]
    sure = [ok for ok, v in zip(right, verdicts, strict=True) if not v.abstained]
    assert said["decided"]["accuracy"] == pytest.approx(np.mean(sure))
    assert np.mean(sure) > np.mean(right)


def test_costs_choose_the_band_and_a_dear_escalation_leaves_none() -> None:
    def share(cost: float) -> float:
        wanted = Operating(cost_fp=1.0, cost_fn=1.0, cost_escalation=cost)
        _, found = revised("binary", CalibrationSettings("platt", wanted))
        said = found["escalation"]
        assert said["cost_of_errors"] + said["cost_of_escalation"] <= (
            said["cost_of_errors_alone"] + 1e-9
        )
        return said["share"]

    assert share(0.6) == 0
    assert 0 < share(0.3) < share(0.05)


@pytest.mark.parametrize("task", TASKS)
def test_a_share_to_abstain_on_is_the_share_of_these_rows(task: str) -> None:
    wanted = CalibrationSettings("platt", Operating(abstain_share=0.1))
    _, found = revised(task, wanted)
    assert found["escalation"]["share"] == pytest.approx(0.1, abs=0.01)
    low, high = found["escalation"]["share_interval"]
    assert low < 0.1 < high


@pytest.mark.parametrize("task", TASKS)
def test_arrays_are_left_undecided_just_as_single_rows_are(task: str) -> None:
    probs, _, _ = rows(task)
    bands = ((0.2, 0.9), (0.0, 0.99), (0.4, 0.4))[: probs.shape[1]]
    single = [abstains(task, row, bands) for row in probs.tolist()]  # type: ignore[arg-type]
    np.testing.assert_array_equal(undecided(task, probs, bands), single)  # type: ignore[arg-type]


def test_a_multiclass_precision_holds_among_the_rows_that_are_decided() -> None:
    wanted = CalibrationSettings("temperature", Operating(target_precision=0.9))
    probe, found = revised("multiclass", wanted)
    assert probe.card.thresholds is None
    assert all(line["precision"] >= 0.9 for line in found["thresholds"])
    assert found["escalation"]["decided"]["accuracy"] >= 0.9 > found["before"]["accuracy"]


def test_rates_of_a_multiclass_label_are_of_the_rows_that_it_is_given_to() -> None:
    """A line of 0 was told to give the label to every row: all rates were those of chance."""
    probs, targets, _ = rows("multiclass")
    wanted = CalibrationSettings("none", Operating(target_precision=0.3))
    _, found = revised("multiclass", wanted)
    best = probs.argmax(1)
    for i, line in enumerate(found["thresholds"]):
        given = (best == i) & (probs[:, i] >= line["threshold"])
        assert given.any() and not given.all()
        assert line["fpr"] == pytest.approx(given[targets != i].mean())
        assert line["recall"] == pytest.approx(given[targets == i].mean())
        assert line["precision"] == pytest.approx((targets[given] == i).mean())


@pytest.mark.parametrize("task", TASKS)
def test_conformal_sets_cover_new_rows_as_often_as_they_promise(task: str) -> None:
    covered: list[float] = []
    for seed in range(8):
        probs, targets, _ = rows(task, 120, seed)
        wanted = CalibrationSettings("temperature", coverage=0.9, seed=seed)
        probe, _ = calibrate(made_artefact(task), probs, targets, wanted, DATA)
        _, truth, logits = rows(task, 300, seed + 100)
        verdicts = [probe.verdict(p) for p in probe.probabilities(logits).tolist()]
        for verdict, row in zip(verdicts, _columns(task, truth), strict=True):
            names = _names(task, row)
            assert verdict.prediction_set is not None
            if names:
                held = [name in verdict.prediction_set for name in names]
                covered.append(float(np.mean(held)))
    assert 0.88 < np.mean(covered) < 0.97


def _names(task: str, row: np.ndarray) -> list[str]:
    if task == "binary":
        return [LABELS["binary"][int(row[0])]]
    return [name for name, has in zip(LABELS[task], row, strict=True) if has]


def test_the_probes_own_training_rows_are_told_from_others() -> None:
    labelled = made_rows(made_artefact("binary"), ["a", "b"], ["no", "yes"])
    data = {"sha256": labelled.rows.sha256, "path": "t.csv", "num_rows": 2, "split": "train"}
    own = made_artefact("binary", data=data)
    assert "rows.csv is the file that the probe was trained on" in (
        own_rows(own.card, labelled.rows) or ""
    )
    assert own_rows(made_artefact("binary").card, labelled.rows) is None


@pytest.mark.parametrize("refit", [True, False])
def test_validation_rows_are_told_where_the_probe_learnt_from_them(refit: bool) -> None:
    labelled = made_rows(made_artefact("binary"), ["a", "b"], ["no", "yes"])
    data = {"sha256": "0", "path": "t.csv", "num_rows": 2, "split": "all rows"}
    data |= {"validation_sha256": labelled.rows.sha256}
    said = own_rows(
        made_artefact("binary", data=data, training={"refit": refit}).card, labelled.rows
    )
    assert ("its validation rows, which the probe learnt from, too" in (said or "")) == refit


def test_rows_that_a_probe_was_chosen_by_are_told_where_it_is_measured() -> None:
    """On the rows that its threshold was chosen on a probe was measured without a word."""
    labelled = made_rows(made_artefact("binary"), ["a", "b"], ["no", "yes"])
    data = {"sha256": "0", "path": "t.csv", "num_rows": 2, "split": "all rows"}
    sha256 = labelled.rows.sha256
    for decisions in ({"data": {"sha256": sha256}}, {"data": {"sha256": "1"}, "fitted_on": sha256}):
        card = made_artefact("binary", data=data, decisions=decisions).card
        assert own_rows(card, labelled.rows) is None
        said = chosen_rows(card, labelled.rows)
        assert said is not None and "thresholds or calibration were chosen on" in said
    held = made_artefact("binary", data=data | {"validation_sha256": sha256}).card
    assert "validation rows, which chose the epoch" in (chosen_rows(held, labelled.rows) or "")
    assert chosen_rows(made_artefact("binary", data=data).card, labelled.rows) is None


@pytest.mark.parametrize("task", TASKS)
def test_a_calibration_that_is_worse_on_left_out_rows_is_not_kept(task: str) -> None:
    """Forty rows of a probe that says what it means: a rising line of pieces took its ECE on
    left-out rows from 0.068 to 0.122, and was saved without a word."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(60, 1 if task == "binary" else 3)) * 1.5
    tensor = torch.tensor(logits, dtype=torch.float32)
    probe = made_artefact(task)
    probs = probe.probabilities(tensor).double().numpy()
    if task == "multiclass":
        targets = np.array([rng.choice(3, p=row / row.sum()) for row in probs])
    else:
        targets = (rng.random(probs.shape) < probs).astype(np.int64)
        targets = targets[:, 0] if task == "binary" else targets.astype(np.float32)
    kept, found = calibrate(probe, probs, targets, CalibrationSettings("isotonic"), DATA)
    assert found["comparison"]["kept"] == "present" and found["method"] == "none"
    assert kept.card.calibration is None and found["after"] == found["before"]
    torch.testing.assert_close(kept.probabilities(tensor), probe.probabilities(tensor))


def test_a_calibration_is_told_on_rows_that_it_was_not_fitted_on() -> None:
    """Fitted and told on the same forty rows, any line of pieces looks better than it is."""
    probs, targets, _ = rows("binary", 40)
    _, found = calibrate(
        made_artefact("binary"), probs, targets, CalibrationSettings("isotonic"), DATA
    )
    logits = to_logits(probs)
    names = ("yes",)
    same = apply("binary", fit_calibration("binary", logits, targets, "isotonic", names), logits)
    others = evaluate(same, targets, "binary", names=("brier",))["brier"]
    assert found["comparison"]["new"]["brier"] > (others or 0) + 0.005
    if found["comparison"]["kept"] == "new":
        assert found["after"]["brier"] == found["comparison"]["new"]["brier"]


def test_prediction_sets_are_fitted_on_probabilities_of_left_out_rows() -> None:
    """Sets fitted on rows that the calibration had seen held the true label too seldom."""
    probs, targets, _ = rows("binary", 60)
    wanted = CalibrationSettings("isotonic", coverage=0.9)
    probe, found = calibrate(made_artefact("binary"), probs, targets, wanted, DATA)
    seen = apply("binary", probe.card.calibration, to_logits(probs))
    assert found["comparison"]["kept"] == "new" and probe.card.conformal is not None
    assert probe.card.conformal.limit < fit_conformal("binary", seen, targets, 0.9).limit


def test_calibrating_twice_on_the_same_rows_gives_the_same_probe() -> None:
    """The second time the first calibration looked better than any: it had seen the rows."""
    probs, targets, _ = rows("binary")
    once, first = calibrate(
        made_artefact("binary"), probs, targets, CalibrationSettings("isotonic"), DATA
    )
    twice, second = calibrate(once, probs, targets, CalibrationSettings("isotonic"), DATA)
    assert first["comparison"] == second["comparison"]
    assert once.card.calibration == twice.card.calibration


def test_a_calibration_is_known_by_its_rows_after_other_rows_have_kept_it() -> None:
    """Rows that a calibration was fitted on were taken for new ones once it had been tried on
    others: it was told, and kept, by what it gives on its own rows."""
    own, others = (rows("binary", 40, seed) for seed in (5, 6))
    wanted = CalibrationSettings("temperature")

    def again(probe: Artefact, some: Any, sha256: str) -> tuple[Artefact, dict[str, Any]]:
        return calibrate(probe, some[0], some[1], wanted, DATA | {"sha256": sha256})

    once, first = again(made_artefact("binary"), own, "a")
    kept, second = again(once, others, "b")
    assert (first["comparison"]["kept"], second["comparison"]["kept"]) == ("new", "present")
    assert kept.card.calibration == once.card.calibration
    _, third = again(kept, own, "a")
    assert third["comparison"] == first["comparison"] and third["after"] == first["after"]


def test_log_loss_is_that_of_scikit_learn_and_no_surer_than_the_rows() -> None:
    rng = np.random.default_rng(0)
    probs, truth = rng.uniform(0.1, 0.9, (50, 1)), rng.integers(2, size=50)
    assert log_loss(probs, truth, "binary") == pytest.approx(sklearn_log_loss(truth, probs[:, 0]))
    many = rng.dirichlet(np.ones(3) * 5, 50)
    ids = rng.integers(3, size=50)
    assert log_loss(many, ids, "multiclass") == pytest.approx(
        sklearn_log_loss(ids, many, labels=[0, 1, 2])
    )
    pair, half = np.array([[0.5, 0.8]]), np.array([[np.nan, 0.0]])
    assert log_loss(np.repeat(pair, 9, 0), np.repeat(half, 9, 0), "multilabel") == pytest.approx(
        -np.log(0.2)
    )
    sure = np.array([[1.0], [1.0]])
    assert log_loss(sure, np.array([1, 0]), "binary") == pytest.approx(-np.log(0.25) / 2)
    six = np.array([1] * 5 + [0])
    assert log_loss(np.ones((6, 1)), six, "binary") == pytest.approx(-np.log(1 / 8) / 6)


def test_the_log_loss_of_the_surest_right_rows_is_zero_and_not_minus_zero() -> None:
    """`calibrate` printed a log-loss of -0.0000."""
    sure = log_loss(np.ones((3, 1)), np.ones(3), "binary")
    assert sure == 0 and np.copysign(1, sure) == 1


@pytest.mark.parametrize(
    ("task", "targets", "method", "words"),
    [
        ("binary", [0, 0, 0], "platt", "no row of 'yes'"),
        ("binary", [1, 1, 0], "temperature", "1 row of 'no'"),
        ("multiclass", [0, 0, 2, 2], "platt", "no row of 'b'"),
        ("multiclass", [1, 1, 1], "temperature", "All rows have the label 'b'"),
        ("multilabel", [[1, 0, 1], [1, 1, 0], [1, 1, 0], [1, 0, 1]], "platt", "no row without 'a'"),
        ("multilabel", [[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]], "isotonic", "1 row of 'b'"),
    ],
)
def test_labels_that_the_rows_lack_are_named(
    task: str, targets: list[Any], method: str, words: str
) -> None:
    ids = np.array(targets, dtype=np.float32 if task == "multilabel" else np.int64)
    with pytest.raises(DataError, match=words):
        check_wishes(made_artefact(task).card, ids, method, Operating())


def test_a_rate_that_the_rows_cannot_show_is_refused_before_any_pass() -> None:
    card, targets = made_artefact("binary").card, np.array([0] * 98 + [1] * 10)
    with pytest.raises(DataError, match="takes 99 rows without"):
        check_wishes(card, targets, "none", Operating(target_fpr=0.01))
    wanted = Operating(target_fpr=0.02, target_fnr=0.05)
    with pytest.raises(DataError, match=r"target-fnr 0\.05, which takes 19 rows with"):
        check_wishes(card, targets, "none", wanted)
    check_wishes(card, targets, "none", Operating(target_fpr=0.02, target_fnr=0.1))


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"target_fpr": 0.0}, "share between 0 and 1"),
        ({"target_precision": 1.0}, "share between 0 and 1"),
        ({"cost_fp": 1.0}, "go together"),
        ({"cost_fp": -1.0, "cost_fn": 1.0}, "above 0"),
        ({"best_f1": True, "target_fpr": 0.1}, "best-f1 and target-fpr"),
        ({"target_fnr": 0.1}, "give target-fpr too"),
        ({"target_fpr": 0.1, "target_fnr": 0.1, "abstain_share": 0.1}, "both choose the band"),
        ({"abstain_band": (0.7, 0.2)}, "from low to high"),
        ({"cost_escalation": 1.0}, "price of handing a text on"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(wishes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Operating(**wishes)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"best_f1": True}, "likeliest label decides"),
        ({"cost_fp": 1.0, "cost_fn": 2.0}, "likeliest label decides"),
        ({"target_fpr": 0.1, "target_fnr": 0.1}, "target-fnr is for"),
        ({"target_fpr": 0.1, "abstain_share": 0.1}, "leave abstain out"),
    ],
)
def test_wishes_that_a_multiclass_probe_has_no_use_for_are_refused(
    wishes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        revised("multiclass", CalibrationSettings("none", Operating(**wishes)))


def test_rows_that_cannot_show_a_rate_are_told_how_many_it_takes() -> None:
    wanted = CalibrationSettings("none", Operating(target_fpr=0.001))
    with pytest.raises(DataError, match=r"'yes': 600 rows cannot show target-fpr 0\.001.*999 rows"):
        revised("binary", wanted)
    with pytest.raises(DataError, match=r"no threshold has a precision of 0\.9999"):
        revised("binary", CalibrationSettings("none", Operating(target_precision=0.9999)))


def test_rows_that_cannot_be_calibrated_say_why() -> None:
    probs, targets, _ = rows("binary")
    for wrong, words in (
        (np.zeros_like(targets), "no row of 'yes'"),
        (1 - targets, "score no higher"),
    ):
        with pytest.raises(DataError, match=words):
            calibrate(made_artefact("binary"), probs, wrong, CalibrationSettings("platt"), DATA)
    few, two = np.linspace(0.1, 0.9, 6)[:, None], np.array([0, 0, 0, 0, 1, 1])
    with pytest.raises(DataError, match=r"too few rows .*agree on 'yes'"):
        for seed in range(100):  # in some draw both lie in one fold
            calibrate(
                made_artefact("binary"), few, two, CalibrationSettings("platt", seed=seed), DATA
            )
    with pytest.raises(DataError, match="takes 100 rows"):
        settings = CalibrationSettings("none", coverage=0.99)
        calibrate(made_artefact("binary"), probs[:50], targets[:50], settings, DATA)
    with pytest.raises(ConfigError, match="The coverage is 1"):
        CalibrationSettings(coverage=1.0)


def test_a_label_is_calibrated_on_the_rows_that_were_judged_on_it() -> None:
    probs, targets, _ = rows("multilabel")
    holes = targets.copy()
    holes[:300, 1] = np.nan
    wanted = CalibrationSettings("platt", Operating(target_fpr=0.05))
    probe, found = calibrate(made_artefact("multilabel"), probs, holes, wanted, DATA)
    alone, other = calibrate(made_artefact("multilabel"), probs[300:], targets[300:], wanted, DATA)
    assert isinstance(probe.card.calibration, Affine)
    assert isinstance(alone.card.calibration, Affine)
    assert probe.card.calibration.scales[1] == alone.card.calibration.scales[1]
    assert probe.card.calibration.scales[0] != alone.card.calibration.scales[0]
    same = ("threshold", "fpr", "recall", "precision")
    for name in same:
        assert found["thresholds"][1][name] == pytest.approx(other["thresholds"][1][name])


def test_a_rate_that_rows_cannot_show_is_refused_of_many_labels_too() -> None:
    """A multi-class probe was saved that abstained on every text, without a word."""
    card, targets = made_artefact("multiclass").card, np.repeat([0, 1, 2], 40)
    with pytest.raises(DataError, match=r"Label 'a': 120 rows .* takes 99 rows without"):
        check_wishes(card, targets, "temperature", Operating(target_fpr=0.01))
    check_wishes(card, targets, "temperature", Operating(target_fpr=0.02))


def test_a_precision_that_no_label_reaches_is_refused_and_one_that_some_miss_is_told() -> None:
    wanted = CalibrationSettings("none", Operating(target_precision=0.9999))
    with pytest.raises(DataError, match=r"Label 'a': no threshold has a precision of 0\.9999"):
        revised("multiclass", wanted, count=60)
    card, targets = made_artefact("multiclass").card, np.array([0, 1, 0])
    told = notes_of(card, targets, (0.5, 1.0, 0.2), "rows.csv")
    assert told[0].startswith("rows.csv has no row of 'c': ")
    assert told[1].startswith("No threshold does for 'b' on these rows: the probe abstains")
    assert notes_of(card, np.array([0, 1, 2]), (), "rows.csv") == []


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_metrics_of_the_order_stay_where_a_calibration_keeps_it(method: Method) -> None:
    """Parts of the rows with temperatures of their own were ranked against each other."""
    for count in (20, 60):
        _, found = revised("binary", CalibrationSettings(method), count)
        before, after = found["before"], found["after"]
        assert (after["auroc"], after["auprc"]) == pytest.approx((before["auroc"], before["auprc"]))
