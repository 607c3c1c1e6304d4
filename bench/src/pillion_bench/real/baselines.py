"""Asks the baselines of `pillion_bench.baselines` about the texts of a study.

They learn from the same training rows, choose on the same validation rows, and see every set as one
long test. Knows no metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pillion.backends import Backend
from pillion.core import Text
from pillion.data import LabelSpace
from pillion.extract import Progress
from pillion_bench.baselines import make_method
from pillion_bench.baselines.muli import Muli
from pillion_bench.baselines.texts import TextMethod
from pillion_bench.problem import Part, PartName, Problem
from pillion_bench.real.answers import Answer
from pillion_bench.real.sets import TextSet
from pillion_bench.real.settings import RealSettings
from pillion_bench.suite import DataSpec


def problem_of(
    space: LabelSpace,
    texts: Sequence[Text],
    said: Sequence[str],
    targets: np.ndarray,
    fit_ids: np.ndarray,
    held_ids: np.ndarray,
    sets: Sequence[TextSet],
    settings: RealSettings,
) -> Problem:
    """The study's rows as a problem whose test is all sets, one after the other.

    Args:
        space: labels of the study.
        texts: of the training rows, those for validation among them.
        said: what the scope's turns of these say.
        targets: of these.
        fit_ids: rows to learn from.
        held_ids: rows to choose on.
        sets: what is asked about.
        settings: how texts are wrapped, and whose words are read.
    """
    asked = tuple(text for one in sets for text in one.said)
    shown = tuple(text for one in sets for text in one.texts)
    wanted = np.concatenate([one.targets for one in sets])
    stores: dict[PartName, tuple[Text, ...]] = {"train": tuple(texts), "test": shown}

    def part(name: PartName, rows: np.ndarray) -> Part:
        return Part(name, tuple(said[int(row)] for row in rows), targets[rows], "train", rows)

    test = Part("test", asked, wanted, "test", np.arange(len(asked)))
    return Problem(
        "study",
        DataSpec(train="train", test="test", template=settings.template, scope=settings.scope),
        space,
        part("train", fit_ids),
        part("validation", held_ids),
        test,
        stores,
        files=(),
    )


def ask_baselines(
    kinds: Sequence[str],
    problem: Problem,
    backend: Backend,
    last_states: Callable[[Part], Float[Tensor, "row dim"]],
    sets: list[TextSet],
    seed: int,
    progress: Progress,
) -> list[Answer]:
    """One answer a baseline that can be used here.

    Args:
        kinds: of `pillion_bench.real.settings.BASELINES`.
        problem: the rows.
        backend: the model.
        last_states: of a part's rows, of the last layer and each row's last token.
        sets: which the test is made of.
        seed: of baselines with chance in them.
        progress: told of long work.
    """
    found: list[Answer] = []
    for kind in kinds:
        method = make_method(kind, {}, kind)
        if method.why_not(problem, backend) is not None:
            continue
        if isinstance(method, Muli):
            (said,) = method.learn(backend, problem, last_states, [seed], progress)
        else:
            assert isinstance(method, TextMethod)
            said = method.learn(problem)
        truth = problem.validation.targets
        assert said.test is not None, "a study has test rows"
        found.append(
            Answer.of(kind, problem.task, said.validation, truth, said.test, sets, said.parameters)
        )
    return found
