"""SetFit as a method, with its package played by a nearest word."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mood import accuracy, place_of, problem_of

from pillion.backends.fake import FakeBackend
from pillion_bench.baselines import make_method
from pillion_bench.baselines import setfit as module


class Played:
    """Answers with the label of the training text that shares the most words."""

    def __init__(self) -> None:
        self.model_body = torch.nn.Linear(2, 3)
        self.rows: dict[str, list[Any]] = {}

    @classmethod
    def from_pretrained(cls, path: str) -> Played:
        assert path == "folder"
        return cls()

    def predict_proba(self, texts: list[str], as_numpy: bool) -> np.ndarray:
        assert as_numpy
        known = [set(text.split()) for text in self.rows["text"]]
        nearest = [
            max(range(len(known)), key=lambda i: len(known[i] & set(t.split()))) for t in texts
        ]
        return np.eye(max(self.rows["label"]) + 1)[[self.rows["label"][i] for i in nearest]]


class Trainer:
    def __init__(
        self, model: Played, args: SimpleNamespace, train_dataset: dict[str, list[Any]]
    ) -> None:
        assert args.num_iterations == 3 and args.seed == 7
        model.rows = train_dataset

    def train(self) -> None:
        torch.rand(5)  # draws must not move the caller's random state


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "setfit": SimpleNamespace(
            SetFitModel=Played, Trainer=Trainer, TrainingArguments=SimpleNamespace
        ),
        "datasets": SimpleNamespace(Dataset=SimpleNamespace(from_dict=dict)),
    }
    monkeypatch.setattr(module, "_package", parts.__getitem__)
    for name in parts:
        stub = ModuleType(name)
        stub.__spec__ = SimpleNamespace(name=name)  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, name, stub)


@pytest.mark.parametrize("labels", [("fine", "poor"), ("fine", "poor", "so")])
def test_it_learns_from_all_rows_but_those_of_the_test(
    tmp_path: Path, labels: tuple[str, ...], played: None
) -> None:
    problem = problem_of(tmp_path, labels)
    method = make_method("setfit", {"model": "folder", "pairs": 3}, "setfit")
    assert method.why_not(problem, FakeBackend()) is None
    before = torch.get_rng_state()
    with ExitStack() as opened:
        (outcome,) = method.fit(place_of(tmp_path, opened, problem), [7])
    assert torch.equal(before, torch.get_rng_state())
    assert accuracy(outcome, problem) > 0.9
    assert outcome.validation.shape == (len(problem.validation), problem.num_outputs)
    assert outcome.parameters == 9


def test_what_it_says_of_validation_rows_is_said_before_it_learns_from_them(
    tmp_path: Path, played: None
) -> None:
    """Thresholds and validation metrics of a locked run were of rows that it had learnt from."""
    problem = problem_of(tmp_path)
    words = tuple(f"word{row}" for row in range(len(problem.validation)))
    problem = replace(problem, validation=replace(problem.validation, texts=words))
    method = make_method("setfit", {"model": "folder", "pairs": 3}, "setfit")
    with ExitStack() as opened:
        place = place_of(tmp_path, opened, problem)
        (locked,) = method.fit(place, [7])
        (plain,) = method.fit(replace(place, problem=replace(problem, test=None)), [7])
    np.testing.assert_array_equal(locked.validation, plain.validation)
    truth = problem.validation.targets
    assert ((locked.ask(problem.validation)[:, 0] > 0.5) == truth).all(), "it learnt from all"


def test_without_its_package_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    method = make_method("setfit", {}, "setfit")
    reason = method.why_not(problem_of(tmp_path), FakeBackend())
    assert reason == "The package setfit is not installed."
