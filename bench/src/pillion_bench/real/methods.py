"""The methods of a study, out of those of a suite, and what each says of every set.

Networks are asked together: every text passes through the model once. Knows no metric but that of
the learning curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pillion.metrics import evaluate, leading_metric
from pillion_bench.baselines import Method, Outcome, Workplace, ask_together, make_method
from pillion_bench.problem import Part, Problem
from pillion_bench.real.answers import Answer
from pillion_bench.real.sets import nested_rows
from pillion_bench.real.settings import RealSettings

SHUFFLED = "the probe on shuffled labels"
CLOSED_FORMS = {
    "means": "difference of means, layer {of}",
    "lda": "LDA, layer {of}",
    "ridge": "ridge, {of} layers",
}
"""Kinds of heads in closed form, and what a page calls them by what they chose."""

SMALLEST = 8
"""Rows that a learning curve begins with."""


@dataclass(frozen=True, eq=False)
class Few:
    """A point of the learning curves.

    Attributes:
        problem: whose training rows are few.
        probe: what has learnt from them.
    """

    problem: Problem
    probe: Outcome


@dataclass(frozen=True, eq=False)
class Trained:
    """The probes of a study.

    Attributes:
        place: of all training rows.
        probe: what has learnt from them.
        shuffled: the same, from labels of other rows.
        few: points of the learning curves, by name.
    """

    place: Workplace
    probe: Outcome
    shuffled: Outcome
    few: Mapping[str, Few] = field(default_factory=dict[str, Few])

    @property
    def best_epochs(self) -> dict[str, int]:
        """Of every probe, by name."""
        named = {"probe": self.probe, "shuffled": self.shuffled}
        named |= {name: one.probe for name, one in self.few.items()}
        return {name: outcome.chosen["best_epoch"] for name, outcome in named.items()}


def train_probes(place: Workplace, settings: RealSettings, say: Callable[[str], object]) -> Trained:
    """Trains the probe, the control and the points of the learning curves.

    Args:
        place: rows, states and model.
        settings: of probe and training.
        say: told which is trained.
    """

    def fit(name: str, here: Workplace, kind: str = "probe") -> Outcome:
        rows = len(here.problem.train)
        say(f"Training {name} on {rows:,} rows.")
        how = _probe_settings(settings, rows, len(here.problem.validation))
        own = how if kind == "probe" else {"of": "probe", "settings": how}
        method = make_method(kind, own, name)
        folder = place.folder / f"train-{name}"
        (outcome,) = method.fit(replace(here, folder=folder), [settings.config.seed])
        return outcome

    probe, shuffled = fit("probe", place), fit("shuffled", place, "shuffled")
    few: dict[str, Few] = {}
    train = place.problem.train
    for seed in range(settings.curve_seeds):
        for rows in nested_rows(train.targets, SMALLEST, settings.seed + seed)[:-1]:
            name = f"curve-{seed}-{len(rows)}"
            problem = replace(place.problem, train=_some(train, rows))
            few[name] = Few(problem, fit(name, _with(place, problem)))
    return Trained(place, probe, shuffled, few)


def _probe_settings(settings: RealSettings, rows: int, held: int) -> dict[str, Any]:
    """Of the method `probe`: as many epochs as `pillion train` takes."""
    config = settings.config
    return {
        **config.model_dump(include={"probe", "settings", "learning_rate", "weight_decay"}),
        "train": settings.train.for_rows(rows, held).model_dump(),
        "longest": 1,
    }


def _some(part: Part, rows: np.ndarray) -> Part:
    texts = tuple(part.texts[row] for row in rows)
    return replace(part, texts=texts, targets=part.targets[rows], row_ids=part.row_ids[rows])


def _with(place: Workplace, problem: Problem) -> Workplace:
    return replace(place, problem=problem, states=place.states.of(problem))


class Said:
    """What every method of a study says of every set.

    Args:
        trained: the probes.
        sets: the rows that are asked about, by name; the first is the test.

    Attributes:
        answers: one a method, the probe's first.
    """

    def __init__(self, trained: Trained, sets: Mapping[str, Part]) -> None:
        self.trained, self.sets = trained, sets
        self.answers: list[Answer] = []
        self._few: dict[str, np.ndarray] = {}
        self._closed: dict[str, Method] = {}

    @property
    def _problem(self) -> Problem:
        return self.trained.place.problem

    def ask_probes(self, name: str) -> None:
        """Asks the probe and the control about all sets, and the curves' about the test."""
        everywhere = {name: self.trained.probe, SHUFFLED: self.trained.shuffled}
        found: dict[str, dict[str, np.ndarray]] = {method: {} for method in everywhere}
        for number, (one, part) in enumerate(self.sets.items()):
            few = {} if number else self.trained.few
            outcomes = [*everywhere.values(), *(point.probe for point in few.values())]
            said = ask_together([outcome.ask for outcome in outcomes], part)
            for method, probs in zip(everywhere, said, strict=False):
                found[method][one] = probs
            self._few |= dict(zip(few, said[len(everywhere) :], strict=True))
        for method, outcome in everywhere.items():
            self.answers.append(Answer.of(method, self._problem, outcome, found[method]))

    def ask_others(self, kinds: Sequence[str], seed: int) -> None:
        """Fits heads in closed form and baselines, and asks them about all sets."""
        place = self.trained.place
        for kind in (*CLOSED_FORMS, *kinds):
            method = make_method(kind, {}, kind)
            if method.why_not(self._problem, place.states.backend) is not None:
                continue
            (outcome,) = method.fit(place, [seed])
            title = kind
            if kind in CLOSED_FORMS:
                title = CLOSED_FORMS[kind].format(**outcome.chosen)
                own = {} if kind == "ridge" else {"layer": outcome.chosen["of"]}
                self._closed[title] = make_method(kind, own, kind)
            by_set = {name: outcome.ask(part) for name, part in self.sets.items()}
            self.answers.append(Answer.of(title, self._problem, outcome, by_set))

    def curves(self) -> list[dict[str, Any]]:
        """AUPRC (multi-class: accuracy) on the test by rows that were learnt from."""
        if not self.trained.few:
            return []
        test, part = next(iter(self.sets.items()))
        task, metric = self._problem.task, leading_metric(self._problem.task)
        points: dict[tuple[str, int], list[float | None]] = {}

        def add(method: str, rows: int, probs: np.ndarray) -> None:
            value = evaluate(probs, part.targets, task)[metric]
            points.setdefault((method, rows), []).append(value)

        probe = self.answers[0].method
        for name, few in self.trained.few.items():
            rows, here = len(few.problem.train), _with(self.trained.place, few.problem)
            add(probe, rows, self._few[name])
            for title, method in self._closed.items():
                (outcome,) = method.fit(here, [0])
                add(title, rows, outcome.ask(part))
        for answer in self.answers:
            if answer.method in (probe, *self._closed):
                add(answer.method, len(self._problem.train), answer.by_set[test])
        return [
            {
                "step": "curve",
                "set": test,
                "method": method,
                "metric": metric,
                "train_rows": rows,
                "value": None if None in values else float(np.mean(np.array(values, dtype=float))),
                "per_seed": values,
                "rows": len(part),
            }
            for (method, rows), values in sorted(points.items(), key=lambda item: item[0])
        ]
