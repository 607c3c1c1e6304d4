"""Where texts leave: what is promised holds on other rows, and what cannot be had is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from made_probes import LABELS, MODEL
from pillion.errors import ConfigError, DataError
from pillion.evals import CalibrationSettings, ExitWish, calibrate, check_exit, choose_exit
from pillion.evals.bands import DepthRows, choose_bands, cuts_as_bands, likely_to_differ, sides_of
from pillion.evals.exit_rows import decisions_of, simulate
from pillion.evals.exits import upper_bound
from pillion.probe import Artefact
from pillion.probe.exit import beyond
from pillion.probe.untrained import untrained

DATA = {"path": "rows.csv", "sha256": "r", "num_rows": 1}
TASKS = ("binary", "multiclass", "multilabel")
LAYERS, DEPTHS = (0, 1, 2, 3), (0, 1)


def deep_artefact(task: str, depths: tuple[int, ...] = DEPTHS, **facts: Any) -> Artefact:
    model = replace(MODEL, num_layers=3)
    known: dict[str, Any] = {"task": task, "labels": LABELS[task], "depths": depths}
    return untrained("mood", model, layers=LAYERS, **(known | facts))


def rows(task: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits at both depths and at the end, each with less noise than the one before."""
    rng = np.random.default_rng(seed)
    outputs = 1 if task == "binary" else 3
    if task == "multiclass":
        targets = rng.integers(3, size=count)
        signal = 8.0 * np.eye(3)[targets]
    else:
        targets = (rng.random((count, outputs)) < 0.3).astype(np.float32)
        signal = 8.0 * (targets - 0.5)
        if task == "binary":
            targets = targets[:, 0].astype(np.int64)
    end = signal + rng.normal(size=(count, outputs))
    noise = [rng.normal(size=(count, outputs)) * size for size in (3.0, 1.5)]
    return np.stack([end + noise[0], end + noise[1], end], axis=1), targets


def chosen(task: str, wish: ExitWish, count: int = 1500) -> Artefact:
    logits, targets = rows(task, count)
    probe = deep_artefact(task)
    probs = probe.probabilities(torch.tensor(logits[:, -1])).double().numpy()
    settings = CalibrationSettings(wish.method)
    new, _ = calibrate(probe, probs, targets, settings, DATA)
    return choose_exit(new, logits, targets, wish, DATA)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["temperature", "platt", "none"])
def test_on_other_rows_no_more_decisions_differ_than_were_allowed(task: str, method: Any) -> None:
    probe = chosen(task, ExitWish(0.02, method))
    card = probe.card
    assert card.exit is not None
    found: dict[str, Any] = card.exit.found
    assert found["differing"] <= found["differing_at_most"] <= 0.02
    assert found["share_of_layers"] < 0.9
    others, _ = rows(task, 4000, seed=1)
    whole = probe.probabilities(torch.tensor(others[:, -1])).double().numpy()
    left = simulate(card, card.exit.reads, None, others, whole)
    differing = (decisions_of(card, whole) != decisions_of(card, left.probs)).any(1).mean()
    assert differing <= 0.025  # the promise is one of 95 % confidence
    assert (left.depth < 2).mean() > 0.1
    assert sum(found["left_at"].values()) == 1500


@pytest.mark.parametrize("task", TASKS)
def test_a_text_that_leaves_is_decided_as_its_probability_and_the_threshold_say(task: str) -> None:
    """A verdict holds label, probability and threshold: they may not contradict each other."""
    probe = chosen(task, ExitWish(0.02))
    card = probe.card
    assert card.exit is not None
    for read in card.exit.reads:
        for (low, high), line in zip(read.bands, card.thresholds or (), strict=False):
            assert low <= line <= high


def test_patience_lets_texts_leave_that_no_band_does() -> None:
    bands = chosen("binary", ExitWish(0.02))
    patient = chosen("binary", ExitWish(0.1, patience=2))
    assert patient.card.exit is not None and bands.card.exit is not None
    assert patient.card.exit.patience == 2 and patient.card.exit.depths == DEPTHS
    left: Any = patient.card.exit.found["left_at"]
    assert left["3"] < 200  # both depths agree on most rows


def test_a_share_that_no_band_keeps_is_refused() -> None:
    logits, targets = rows("binary", 400)
    logits[:, :2] = -logits[:, 2:]  # rows that leave are decided otherwise
    with pytest.raises(DataError, match=r"No band lets a text leave early.*at most at 0.02"):
        choose_exit(deep_artefact("binary"), logits, targets, ExitWish(0.02, "none"), DATA)


def test_few_rows_take_turns_in_as_many_parts_as_there_are() -> None:
    """A large share takes few rows to show, fewer than there are parts of many."""
    logits, targets = rows("binary", 400)
    some = np.array([*np.flatnonzero(targets == 0)[:2], *np.flatnonzero(targets == 1)[:2]])
    probe, wish = deep_artefact("binary"), ExitWish(0.6, "none")
    check_exit(probe.card, wish, 4, None)
    assert choose_exit(probe, logits[some], targets[some], wish, DATA).card.exit is not None


def test_wishes_that_cannot_be_met_are_refused_before_any_pass() -> None:
    probe = deep_artefact("binary")
    with pytest.raises(ConfigError, match="has no read-outs at depths"):
        check_exit(deep_artefact("binary", ()).card, ExitWish(0.01), 1000, None)
    with pytest.raises(DataError, match="takes 299 rows to show, got 298"):
        check_exit(probe.card, ExitWish(0.01), 298, None)
    check_exit(probe.card, ExitWish(0.01), 299, None)
    with pytest.raises(ConfigError, match="at full depth alone; ask for them or for exits"):
        check_exit(probe.card, ExitWish(0.01), 1000, 0.9)
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="share of decisions that may differ is"):
            ExitWish(share)
    with pytest.raises(ConfigError, match="The patience is 1; give 2 depths or more"):
        ExitWish(0.01, patience=1)


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    assert upper_bound(0, 299) == pytest.approx(0.00997, abs=1e-5)
    assert upper_bound(0, 298) > 0.01
    assert upper_bound(5, 5) == 1.0


def test_a_new_calibration_without_a_wish_for_exits_drops_them() -> None:
    probe = chosen("binary", ExitWish(0.05))
    logits, targets = rows("binary", 500, seed=3)
    probs = probe.whole.revised(calibration=None).probabilities(torch.tensor(logits[:, -1]))
    new, _ = calibrate(probe, probs.double().numpy(), targets, CalibrationSettings(), DATA)
    assert new.card.exit is None and new.card.depths == DEPTHS


# --- bands


def known(likely: Any, costs: tuple[float, ...] = (0.5,)) -> DepthRows:
    """Rows that are the surer the smaller their place, and how likely they differ at each depth."""
    likely = np.array(likely, dtype=float).reshape(len(costs), -1)
    unsure = np.arange(likely.shape[1])[None] / likely.shape[1]
    agree = np.zeros_like(likely, dtype=bool)
    return DepthRows([unsure] * len(costs), likely, agree, np.array(costs))


@pytest.mark.parametrize(("price", "leave"), [(0.5, 8), (2.0, 6), (6.0, 3), (1000.0, 0)])
def test_rows_leave_up_to_where_what_differs_costs_more_than_layers(
    price: float, leave: int
) -> None:
    rows = known([0.01, 0.02, 0.05, 0.1, 0.1, 0.2, 0.3, 0.9])
    ((cut,),) = choose_bands(rows, price)
    assert int((rows.sides[0][0] < cut).sum()) == leave


def test_the_sure_rows_leave_first_where_a_deeper_read_is_right_on_the_others() -> None:
    likely = [[0.0] * 5 + [1.0] * 5, [0.0] * 10]
    rows = known(likely, (0.2, 0.6))
    (first,), (second,) = choose_bands(rows, 1.0)
    assert (rows.sides[0][0] < first).sum() == 5 and (rows.sides[0][0] < second).all()


def test_rows_that_agree_leave_whatever_the_cut_and_no_cut_is_chosen_for_them() -> None:
    rows = known([0.0] * 8)
    rows.agree[:] = True
    ((cut,),) = choose_bands(rows, 1.0)
    assert cut == -np.inf


def test_a_row_is_the_likelier_to_differ_the_less_sure_it_is_on_each_side_by_itself() -> None:
    column = np.linspace(0.02, 0.98, 97)
    sides = sides_of("binary", column[:, None], np.array([0.5]))
    differs = (column > 0.3) & (column < 0.5)
    found = likely_to_differ(sides, differs)
    assert found[0] < 0.05 < 0.5 < found[45]
    assert np.allclose(found[60:], found[60]) and found[60] < 0.02  # nothing differs above


def test_cuts_become_bands_that_hold_the_threshold() -> None:
    lines = np.array([0.3])
    assert cuts_as_bands("binary", np.array([0.2, 0.1]), lines) == ((0.2, 0.9),)
    assert cuts_as_bands("binary", np.array([0.31, -np.inf]), lines) == ((0.3, 1.0),)
    assert cuts_as_bands("multiclass", np.array([0.25]), np.ones(3)) == ((0.0, 0.75),) * 3
    (one, two) = cuts_as_bands("multilabel", np.array([0.5]), np.array([0.2, 0.8]))
    assert one == pytest.approx((0.1, 0.6)) and two == pytest.approx((0.4, 0.9))


@pytest.mark.parametrize("task", TASKS)
def test_a_row_is_outside_the_bands_where_it_is_less_unsure_than_the_cut(task: Any) -> None:
    rng = np.random.default_rng(2)
    probs = rng.random((200, 1 if task == "binary" else 3))
    lines = np.array([0.3, 0.6, 0.5])[: probs.shape[1]]
    sides = sides_of(task, probs, lines)
    cuts = np.array([0.2, 0.35])[: len(sides)]
    wanted = (sides < cuts[:, None]).any(0)
    got = beyond(task, torch.from_numpy(probs), cuts_as_bands(task, cuts, lines)).numpy()
    assert (got == wanted).all() and 0 < wanted.sum() < 200
