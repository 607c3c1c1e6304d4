"""How a cell is made: one method fitted with its seeds, measured on the rows that may be read.

Promises that a cell's digest, with what `stands` compares, is everything that its numbers depend
on. Does not know where cells are kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pillion.backends import Backend
from pillion.errors import ConvergenceError
from pillion.metrics import evaluate
from pillion.provenance import commit, machine
from pillion.train import choose_thresholds
from pillion_bench.baselines import Method, OfNetwork, Outcome, Workplace, ask_together
from pillion_bench.problem import Part, Problem
from pillion_bench.run_folder import Cell, digest_of


@dataclass(frozen=True)
class Entry:
    """A method of a suite on one data set.

    Attributes:
        name: in the suite.
        kind: of `pillion_bench.baselines.METHODS`.
        method: with its settings on this data set.
        seeds: one or more; one for a method without chance in it.
    """

    name: str
    kind: str
    method: Method
    seeds: tuple[int, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What a cell says of its method."""
        settings = self.method.settings.model_dump()
        return {"kind": self.kind, "role": self.method.role, "settings": settings}


def digest(entry: Entry, problem: Problem, backend: Backend, seed: int) -> str:
    """What a cell is made from, as a hash (hex)."""
    facts, rules = _made_from(entry, problem, backend, seed), entry.method.rules
    return digest_of(facts | ({"rules": rules} if rules else {}))


def stands(cell: Cell, entry: Entry, backend: Backend, seeds: Sequence[int]) -> bool:
    """Whether a cell of the right digest is of the same in what digests have never held.

    Older cells do not say it, and are taken.

    Args:
        cell: that lies there.
        entry: the method.
        backend: the model.
        seeds: that are fitted together.
    """
    return all(cell.facts.get(name, own) == own for name, own in _more(entry, backend, seeds))


def _more(entry: Entry, backend: Backend, seeds: Sequence[int]) -> list[tuple[str, Any]]:
    """What else a cell's numbers depend on: how texts are read, and who chose with it."""
    identity = backend.identity
    found: list[tuple[str, Any]] = [
        ("tokenizer", identity.tokenizer_sha256),
        ("context_tokens", identity.context_tokens),
    ]
    return [*found, ("chosen_with", [*seeds])] if entry.method.is_one_choice else found


def times_digest(entry: Entry, problem: Problem, backend: Backend) -> str:
    """What a method's time is measured of, as a hash (hex): how it learns is no part of it."""
    return digest_of(_made_from(entry, problem, backend, 0))


def _made_from(entry: Entry, problem: Problem, backend: Backend, seed: int) -> dict[str, Any]:
    identity = backend.identity
    return {
        "data": problem.spec.identity,
        "locked": problem.test is not None,
        "files": problem.files,
        "kind": entry.kind,
        "settings": entry.method.settings.model_dump(),
        "seed": seed,
        "model": [identity.weights_sha256, identity.template_sha256, identity.dtype],
    }


def fitted_cells(entry: Entry, place: Workplace, digests: Mapping[int, str]) -> list[Cell]:
    """Fits a method and measures it, once a seed.

    Args:
        entry: the method.
        place: rows, states and model.
        digests: of each seed's cell.

    Raises:
        ConvergenceError: a fit of the method is not at its optimum; there is no number then.
    """
    begin, problem = time.perf_counter(), place.problem
    try:
        outcomes = [_asked(one, problem.test) for one in entry.method.fit(place, list(digests))]
    except ConvergenceError as error:
        raise ConvergenceError(f"{problem.name}, {entry.name}: {error}") from error
    asks = [outcome.ask for outcome in outcomes]
    tested = [None for _ in asks] if problem.test is None else ask_together(asks, problem.test)
    seconds = round((time.perf_counter() - begin) / len(digests), 1)
    known = entry.facts | dict(_more(entry, place.states.backend, [*digests]))
    return [
        _cell(problem, outcome, test, {**known, "seed": seed, "digest": digests[seed]}, seconds)
        for seed, outcome, test in zip(digests, outcomes, tested, strict=True)
    ]


def _asked(outcome: Outcome, part: Part | None) -> Outcome:
    """Asked at once, so that its model can go before the next one is made; networks wait."""
    if isinstance(outcome.ask, OfNetwork):
        return outcome
    said = outcome.validation if part is None else outcome.ask(part)

    def ask(_: Part) -> np.ndarray:
        return said

    return replace(outcome, ask=ask)


def unused_cell(entry: Entry, seed: int, made_from: str, reason: str) -> Cell:
    """The cell of a method that cannot be used here, and why."""
    return Cell({**entry.facts, "seed": seed, "digest": made_from, "not_measured": reason}, {})


def _cell(
    problem: Problem,
    outcome: Outcome,
    tested: np.ndarray | None,
    facts: dict[str, Any],
    seconds: float,
) -> Cell:
    """Metrics of an outcome, at thresholds chosen on validation."""
    task = problem.task
    held = _clean(outcome.validation)
    probs, subsets = {"validation": held}, {"validation": (held, problem.validation.targets)}
    thresholds = choose_thresholds(task, torch.from_numpy(held), problem.validation.targets)
    if problem.test is not None:
        assert tested is not None, "a method says something of every part"
        probs["test"] = test = _clean(tested)
        truth, unseen = problem.test.targets, problem.unseen()
        subsets |= {"test": (test, truth), "test_unseen": (test[unseen], truth[unseen])}
    measured = {
        subset: evaluate(probs, targets, task, thresholds)
        for subset, (probs, targets) in subsets.items()
    }
    rest = {
        "metrics": measured,
        "rows": {subset: len(probs) for subset, (probs, _) in subsets.items()},
        "thresholds": thresholds,
        "parameters": outcome.parameters,
        "chosen": outcome.chosen,
        "fit_seconds": seconds,
        "machine": machine(),
        "commit": commit(),
    }
    return Cell({**facts, **rest}, probs)


def _clean(probs: np.ndarray) -> np.ndarray:
    return np.clip(probs.astype(np.float32), 0, 1)
