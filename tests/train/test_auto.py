"""Which probe is chosen for some rows, and from what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pillion.backends.fake import FakeBackend
from pillion.errors import ConfigError
from pillion.extract import LiveSource
from pillion.metrics import evaluate
from pillion.train import Examples, ProbeConfig, TrainSettings, auto, choose_probe, evaluate_source
from pillion.train.auto import folds
from pillion.train.examples import together

QUICK = TrainSettings(epochs=1, batch_size=4)


def examples(count: int = 24, seed: int = 0, task: str = "binary") -> Examples:
    """Rows of bytes below 50, half of which hold some above."""
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 50, size=random.integers(3, 9)).tolist() for _ in range(count)]
    ids = np.arange(count) % 2
    for row, target in zip(rows, ids, strict=True):
        if target:
            row[0:2] = [101, 102]
    targets = np.stack([ids, 1 - ids], 1).astype(np.float32) if task == "multilabel" else ids
    return Examples(LiveSource(FakeBackend(), rows, (0, 1, 3)), targets)


def chosen(settings: TrainSettings = QUICK, task: Any = "binary", **more: Any) -> Any:
    return choose_probe(examples(task=task), examples(12, 1, task), task, 2, settings, **more)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_the_best_on_rows_it_has_not_seen_is_chosen(task: Any) -> None:
    found = chosen(task=task)
    tried = found.facts["tried"]
    assert set(tried) == {"concat", "gate", "gates"}
    best = max(one["auprc"] for one in tried.values())
    assert tried[found.facts["chosen"]]["auprc"] == best
    assert found.facts["by"] == "auprc of 36 rows, left out in turns"
    asked = examples(40, 5, task)
    said = evaluate_source(found.trained.network, asked.source, task)
    assert (evaluate(said.numpy(), asked.targets, task)["auprc"] or 0) > 0.9


def test_a_probe_in_closed_form_learns_from_all_rows_but_is_judged_without_validation() -> None:
    found = chosen()
    assert found.facts["chosen"] == "concat" and found.trained.solved
    whole, part = (network.weight for network in (found.trained.network, found.trained.unbiased))
    assert not torch.equal(whole, part)
    rows = examples()
    (again,) = [
        auto.solve(auto.pooled_source(rows.source, "mean-rms"), rows.targets, "binary", 1).network
    ]
    torch.testing.assert_close(part, again.weight)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_gate_that_is_better_is_taken_and_learns_from_all_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = auto.solve

    def worse(states: Any, targets: Any, *rest: Any) -> Any:
        found = whole(states, targets, *rest)
        return type(found)(found.network, -found.left_out, found.penalty)

    monkeypatch.setattr(auto, "solve", worse)
    found = chosen(TrainSettings(epochs=4, batch_size=4), checkpoint=tmp_path)
    assert found.facts["chosen"] in ("gate", "gates")
    trained = found.trained
    assert trained.config.probe == "gate" and not trained.solved
    assert trained.network is not trained.unbiased


@pytest.mark.parametrize(
    "settings",
    [{"class_weights": "balanced"}, {"prefixes": "uniform"}],
    ids=lambda s: next(iter(s)),
)
def test_what_closed_forms_do_not_know_leaves_gates(settings: dict[str, Any]) -> None:
    found = chosen(QUICK.model_copy(update=settings))
    assert set(found.facts["tried"]) == {"gate", "gates"}
    assert found.facts["by"] == "auprc of 12 validation rows"


def test_many_rows_leave_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "MOST_ROWS", 35)
    assert set(chosen().facts["tried"]) == {"gate", "gates"}


def test_rows_that_nobody_judged_leave_gates() -> None:
    training = examples(task="multilabel")
    training.targets[0, 0] = np.nan
    found = choose_probe(training, examples(12, 1, "multilabel"), "multilabel", 2, QUICK)
    assert set(found.facts["tried"]) == {"gate", "gates"}


def test_folds_hold_every_row_back_once_and_labels_on_both_sides() -> None:
    ids = np.repeat([0, 1, 2], [12, 6, 3])
    parts = list(folds(ids, 0))
    assert len(parts) == 3
    assert np.sort(np.concatenate([held for _, held in parts])).tolist() == list(range(21))
    for learn, held in parts:
        assert set(ids[learn]) == set(ids[held]) == {0, 1, 2}
    single = list(folds(np.array([0, 0, 0, 1]), 0))
    assert len(single) == 2
    several = np.array([[1, 0], [1, 1], [0, 0], [1, 0], [0, 1], [0, 0]], dtype=np.float32)
    assert sorted(np.concatenate([held for _, held in folds(several, 1)]).tolist()) == [*range(6)]


def test_rows_that_belong_together_are_never_parted() -> None:
    ids, groups = np.arange(24) // 2 % 2, np.random.default_rng(0).permutation(24) // 2
    parts = list(folds(ids, 0, groups))
    assert np.sort(np.concatenate([held for _, held in parts])).tolist() == list(range(24))
    for learn, held in parts:
        assert not {*groups[learn]} & {*groups[held]} and set(ids[held]) == {0, 1}


def test_a_row_that_stands_twice_does_not_tell_of_itself() -> None:
    """Twins of rows without a rule: a probe in closed form told each by the other."""
    random = np.random.default_rng(3)
    rows = random.integers(0, 50, size=(30, 12)).tolist()
    source, ids = LiveSource(FakeBackend(), rows * 2, (0, 1, 3)), random.integers(0, 2, 30)
    twins = Examples(source, np.tile(ids, 2), groups=np.tile(np.arange(30), 2))
    found = choose_probe(twins, examples(12, 1), "binary", 2, QUICK)
    by_itself = choose_probe(replace(twins, groups=None), examples(12, 1), "binary", 2, QUICK)
    losses = [one.facts["tried"]["concat"]["log_loss"] for one in (found, by_itself)]
    assert losses[1] < losses[0]
    states = auto.pooled_source(source, "mean-rms")
    whole = auto.solve(states, twins.targets, "binary", 1, twins.groups).left_out
    torch.testing.assert_close(whole[:30], whole[30:])


def test_rows_of_a_single_group_leave_gates() -> None:
    one = replace(examples(), groups=np.zeros(24, dtype=int))
    found = choose_probe(one, one, "binary", 2, QUICK)
    assert set(found.facts["tried"]) == {"gate", "gates"}


def test_groups_of_either_side_are_its_own() -> None:
    """Those of two files may have the same numbers."""
    first = replace(examples(4), groups=np.array([5, 5, 9, 5]))
    every = together(first, replace(examples(3), groups=np.array([5, 9, 9]))).groups
    assert every is not None and every.tolist() == [0, 0, 1, 0, 2, 3, 3]
    mixed = together(first, examples(2)).groups
    assert mixed is not None and mixed.tolist() == [0, 0, 1, 0, 2, 3]
    assert together(examples(4), examples(2)).groups is None


def test_settings_of_a_probe_are_refused() -> None:
    for given in ({"settings": {"num_heads": 2}}, {"learning_rate": 0.1}, {"weight_decay": 0.1}):
        with pytest.raises(ConfigError, match="'auto' chooses among probes"):
            ProbeConfig(probe="auto", **given)  # pyright: ignore[reportArgumentType]
