"""Where texts leave: what is promised holds on other rows, and what cannot be had is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from made_probes import LABELS, MODEL
from pillion.core import Shape
from pillion.errors import ConfigError, DataError
from pillion.evals import CalibrationSettings, ExitWish, calibrate, check_exit, choose_exit
from pillion.evals.bands import DepthRows, choose_bands, cuts_as_bands, sides_of
from pillion.evals.exits import decisions_of, simulate, upper_bound
from pillion.probe import Artefact, build
from pillion.probe.exit import beyond

DATA = {"path": "rows.csv", "sha256": "r", "num_rows": 1}
TASKS = ("binary", "multiclass", "multilabel")
LAYERS, DEPTHS = (0, 1, 2, 3), (0, 1)


def deep_artefact(task: str, depths: tuple[int, ...] = DEPTHS, **facts: Any) -> Artefact:
    labels = LABELS[task]
    network = build("gate", Shape(4, 4, 1 if task == "binary" else len(labels)))
    known: dict[str, Any] = {
        "probe": "gate",
        "task": task,
        "labels": labels,
        "layers": LAYERS,
        "depths": depths,
        "template": "raw",
        "model": replace(MODEL, num_layers=3),
        "data": {"sha256": "d", "path": "train.csv", "num_rows": 10, "split": "train"},
        "seed": 0,
        "training": {},
        "metrics": {},
    }
    return Artefact.of("mood", network, **{**known, **facts})


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
    assert differing <= 0.02
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
    logits[:, :2] = -logits[:, 2:]  # whoever leaves is decided otherwise
    with pytest.raises(DataError, match=r"No band lets a text leave early.*at most at 0.02"):
        choose_exit(deep_artefact("binary"), logits, targets, ExitWish(0.02, "none"), DATA)


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


def known(count: int = 8) -> DepthRows:
    """One depth at half the cost, where rows are the surer the smaller; the last two differ."""
    unsure = np.arange(count)[None] / count
    differs = np.zeros((1, count), dtype=bool)
    differs[0, -2:] = True
    return DepthRows([unsure], differs, np.zeros_like(differs), np.array([0.5]))


@pytest.mark.parametrize(("most", "leave"), [(0, 6), (1, 6), (2, 8)])
def test_as_many_rows_leave_as_the_rows_that_differ_allow(most: int, leave: int) -> None:
    rows = known()
    ((cut,),) = choose_bands(rows, most)
    assert int((rows.sides[0][0] < cut).sum()) == leave


def test_a_depth_at_which_all_differ_lets_nobody_leave() -> None:
    rows = known()
    rows.differs[:] = True
    ((cut,),) = choose_bands(rows, 0)
    assert cut == -np.inf


def test_the_sure_rows_leave_first_where_a_deeper_read_is_right_on_the_others() -> None:
    count = 10
    unsure = np.arange(count)[None] / count
    differs = np.zeros((2, count), dtype=bool)
    differs[0, 5:] = True
    rows = DepthRows([unsure, unsure], differs, np.zeros_like(differs), np.array([0.2, 0.6]))
    (first,), (second,) = choose_bands(rows, 0)
    assert (unsure[0] < first).sum() == 5 and (unsure[0] < second).all()


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
