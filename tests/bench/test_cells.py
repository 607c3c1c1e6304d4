"""How a cell is made: what its digest is of, what is asked and when, and what is on record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mood import place_of, problem_of

from pillion.backends.fake import FakeBackend
from pillion.errors import ConvergenceError
from pillion_bench.accuracy import RunSettings, bench_accuracy
from pillion_bench.baselines import METHODS, Method, Outcome, Workplace, ask_together
from pillion_bench.baselines.base import Serving, Settings
from pillion_bench.cells import Entry, digest, fitted_cells, stands, times_digest, unused_cell
from pillion_bench.problem import Part, Problem
from pillion_bench.run_folder import Cell, digest_of
from pillion_bench.suite import MethodSpec, Suite
from pillion_bench.times import WARM_TEXTS, Clock, measure_times


class Dial(Settings):
    """Settings of the method below."""

    turn: float = 0.0


class Guess(Method):
    """Says the same of every row, and keeps a diary of what it was asked."""

    Settings = Dial

    def __init__(self, settings: Any, fails: bool = False) -> None:
        super().__init__(settings)
        self.diary: list[str] = []
        self.fails = fails

    @property
    def seeded(self) -> bool:
        return True

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        if self.fails:
            raise ConvergenceError("no optimum after 9 steps.")
        for seed in seeds:
            self.diary.append(f"fit {seed}")

            def ask(part: Part, seed: int = seed) -> np.ndarray:
                self.diary.append(f"ask {seed} {part.name}")
                return np.full((len(part), 1), 1.5 - seed)

            yield Outcome(ask(place.problem.validation), ask, 3, {"turn": self.settings.turn})

    def serving(self, place: Workplace) -> Serving:
        return Serving(0)


def entry(**facts: Any) -> Entry:
    return Entry(
        **{"name": "guess", "kind": "guess", "method": Guess(Dial()), "seeds": (0,)} | facts
    )


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    return problem_of(tmp_path_factory.mktemp("mood"))


@pytest.fixture(scope="module")
def place(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Iterable[Workplace]:
    with ExitStack() as opened:
        yield place_of(tmp_path_factory.mktemp("place"), opened, problem)


def test_a_digest_is_of_everything_that_numbers_depend_on_and_not_of_a_name(
    problem: Problem,
) -> None:
    backend = FakeBackend()
    same = digest(entry(), problem, backend, 0)
    assert same == digest(entry(name="another", seeds=(0, 1)), problem, FakeBackend(), 0)
    files = tuple({**one, "sha256": "0" * 64} for one in problem.files)
    spec = problem.spec.model_copy(update={"seed": 5})
    named = problem.spec.model_copy(update={"recalls": ("poor",)})
    assert same == digest(entry(), replace(problem, spec=named), backend, 0)
    others = [
        digest(entry(), problem, backend, 1),
        digest(entry(kind="other"), problem, backend, 0),
        digest(entry(method=Guess(Dial(turn=1.0))), problem, backend, 0),
        digest(entry(), replace(problem, test=None), backend, 0),
        digest(entry(), replace(problem, files=files), backend, 0),
        digest(entry(), replace(problem, spec=spec), backend, 0),
        digest(entry(), problem, FakeBackend(seed=1), 0),
    ]
    assert len({same, *others}) == 1 + len(others)


class ByRule(Guess):
    """Chooses by something that is no setting."""

    @property
    def rules(self) -> dict[str, Any]:
        return {"epochs_by": "a criterion"}


def test_a_digest_is_of_the_rules_that_code_chooses_by_but_not_that_of_times(
    problem: Problem,
) -> None:
    """A cell of the log-loss was taken for one of the refinement."""
    backend, identity = FakeBackend(), FakeBackend().identity
    plain, ruled = entry(), entry(method=ByRule(Dial()))
    assert digest(plain, problem, backend, 0) != digest(ruled, problem, backend, 0)
    assert times_digest(plain, problem, backend) == times_digest(ruled, problem, backend)
    older = digest_of(
        {
            "data": problem.spec.identity,
            "locked": True,
            "files": problem.files,
            "kind": "guess",
            "settings": {"turn": 0.0},
            "seed": 0,
            "model": [identity.weights_sha256, identity.template_sha256, identity.dtype],
        }
    )
    assert digest(plain, problem, backend, 0) == older, "cells without such rules still hold"
    assert times_digest(plain, problem, backend) == older


@pytest.mark.parametrize("is_one_choice", [False, True])
def test_seeds_that_choose_together_are_fitted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_one_choice: bool
) -> None:
    """Of a later seed alone another number of epochs could be best than of all."""
    fitted: list[Sequence[int]] = []

    class Noted(Guess):
        def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
            fitted.append(seeds)
            return super().fit(place, seeds)

    monkeypatch.setattr(Noted, "is_one_choice", is_one_choice)
    monkeypatch.setitem(METHODS, "noted", Noted)
    spec = problem_of(tmp_path).spec
    settings = RunSettings(tmp_path, tmp_path / "run", times=0, say=lambda _: None)
    suite = Suite(model="fake", data={"mood": spec}, methods={"noted": MethodSpec(kind="noted")})
    for seeds in ((0,), (0, 1), (0, 1)):
        bench_accuracy(suite.model_copy(update={"seeds": seeds}), settings)
    assert fitted == [[0], [0, 1] if is_one_choice else [1]]


def test_what_a_digest_never_held_counts_where_a_cell_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three seeds together another number of epochs could be best than of one alone."""
    fitted: list[Sequence[int]] = []

    class Noted(Guess):
        is_one_choice = True

        def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
            fitted.append(seeds)
            return super().fit(place, seeds)

    monkeypatch.setitem(METHODS, "noted", Noted)
    spec = problem_of(tmp_path).spec
    settings = RunSettings(tmp_path, tmp_path / "run", times=0, say=lambda _: None)
    suite = Suite(model="fake", data={"mood": spec}, methods={"noted": MethodSpec(kind="noted")})
    for seeds in ((0, 1, 2), (0, 1), (0, 1)):
        bench_accuracy(suite.model_copy(update={"seeds": seeds}), settings)
    assert fitted == [[0, 1, 2], [0, 1]]
    noted, backend = entry(method=Noted(Dial())), FakeBackend()
    older = Cell({"seed": 0}, {})
    assert stands(older, noted, backend, [0])
    for name, other in (("tokenizer", "x"), ("context_tokens", 1), ("chosen_with", [0, 1])):
        assert not stands(Cell({**older.facts, name: other}, {}), noted, backend, [0])


def test_every_seed_has_a_cell_of_its_own_digest_and_probabilities_within_0_and_1(
    place: Workplace,
) -> None:
    method = Guess(Dial(turn=2.0))
    cells = fitted_cells(entry(method=method), place, {0: "d0", 1: "d1"})
    assert [cell.facts["digest"] for cell in cells] == ["d0", "d1"]
    assert [cell.facts["seed"] for cell in cells] == [0, 1]
    for cell, prob in zip(cells, (1.0, 0.5), strict=True):
        assert set(cell.probs) == {"validation", "test"}
        assert all((said == prob).all() for said in cell.probs.values())
        assert cell.facts["settings"] == {"turn": 2.0} and cell.facts["parameters"] == 3
        assert cell.facts["rows"].keys() == cell.facts["metrics"].keys()
        assert set(cell.facts["rows"]) == {"validation", "test", "test_unseen"}


def test_each_model_is_asked_before_the_next_is_made(place: Workplace) -> None:
    """Two of them would not fit into memory side by side."""
    method = Guess(Dial())
    fitted_cells(entry(method=method), place, {0: "a", 1: "b"})
    wanted = [[f"fit {s}", f"ask {s} validation", f"ask {s} test"] for s in (0, 1)]
    assert method.diary == [*wanted[0], *wanted[1]]


def test_no_test_row_is_read_where_there_is_none(place: Workplace) -> None:
    method = Guess(Dial())
    open_place = replace(place, problem=replace(place.problem, test=None))
    (cell,) = fitted_cells(entry(method=method), open_place, {0: "a"})
    assert method.diary == ["fit 0", "ask 0 validation"] and set(cell.probs) == {"validation"}
    assert set(cell.facts["metrics"]) == {"validation"}


def test_a_fit_that_is_not_at_its_optimum_names_data_set_and_method(place: Workplace) -> None:
    failing = entry(method=Guess(Dial(), fails=True))
    with pytest.raises(ConvergenceError, match=r"^mood, guess: no optimum after 9 steps"):
        fitted_cells(failing, place, {0: "a"})


def test_a_method_that_cannot_be_used_has_a_cell_that_says_why() -> None:
    cell = unused_cell(entry(), 3, "d", "It needs peft.")
    assert not cell.probs and cell.facts["not_measured"] == "It needs peft."
    assert (cell.facts["seed"], cell.facts["digest"], cell.facts["role"]) == (3, "d", "baseline")


def test_answers_come_in_the_order_of_those_that_are_asked(problem: Problem) -> None:
    said = [lambda _, x=x: np.full((1, 1), float(x)) for x in range(3)]
    found = ask_together(said, problem.validation)
    assert [float(one[0, 0]) for one in found] == [0.0, 1.0, 2.0]


# --- times


def test_the_first_texts_are_served_and_not_counted(place: Workplace) -> None:
    served: list[str] = []
    clock = Clock(place.states, place.problem, 3)
    serving = Serving(12, beside=served.append)
    found = measure_times(clock, serving)
    assert found["texts"] == 3 and len(served) == 3 + WARM_TEXTS
    assert served == [text for text, _ in clock.texts]
    assert found["tokens"] == sum(len(ids) for _, ids in clock.texts[WARM_TEXTS:])
    assert found["weights_bytes"] == 12
    low, high = found["quartiles_ms"]
    assert low <= found["added_ms"] <= high


def test_every_method_is_served_the_same_texts(place: Workplace) -> None:
    one, other = (Clock(place.states, place.problem, 4).texts for _ in range(2))
    assert [text for text, _ in one] == [text for text, _ in other]


def test_a_single_text_is_counted_though_nothing_was_warm(place: Workplace) -> None:
    clock = Clock(place.states, place.problem, 1)
    clock.texts = clock.texts[:1]
    assert clock.warm == 0 and measure_times(clock, Serving(0))["texts"] == 1


def test_what_rides_sees_the_logits_of_the_pass(place: Workplace) -> None:
    shapes: list[Any] = []
    serving = Serving(0, after=lambda _, logits: shapes.append(logits.shape[0]))
    measure_times(Clock(place.states, place.problem, 2), serving)
    assert shapes == [1] * (2 + WARM_TEXTS)
