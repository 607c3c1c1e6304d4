"""The contract of a method: labelled rows in, probabilities of validation and test rows out.

A method chooses on validation rows whatever it chooses, and sees test texts only to label them, in
a locked run; in any other there are none. It does not know files, intervals or the other methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pillion.backends import Backend
from pillion.core.strict import Strict
from pillion.extract import Progress, silent
from pillion_bench.problem import Problem
from pillion_bench.states import States

Role = Literal["probe", "baseline", "control", "mark"]
"""`control`: what a method must beat to be real; `mark`: an upper mark at another price."""


class Settings(Strict):
    """Base of a method's settings: frozen, typed, unknown keys refused."""


@dataclass(frozen=True)
class Workplace:
    """What a method works with.

    Attributes:
        problem: the rows.
        states: of these rows, and the model.
        folder: for what an interrupted run leaves; gone when the method is done.
        progress: told of long work.
    """

    problem: Problem
    states: States
    folder: Path
    progress: Progress = silent


@dataclass(frozen=True)
class Outcome:
    """What a method gave with one seed.

    Attributes:
        validation: probabilities of the validation rows.
        test: of the test rows; None where they may not be read.
        parameters: numbers that were learnt.
        chosen: what was chosen on validation, and what it was chosen from.
    """

    validation: Float[np.ndarray, "held output"]
    test: Float[np.ndarray, "row output"] | None
    parameters: int
    chosen: dict[str, Any] = field(default_factory=dict[str, Any])


Logits = Float[Tensor, "batch vocab"]


@dataclass(frozen=True)
class Serving:
    """What a method adds while a text is served, for whoever measures its time.

    Weights may be untrained where time does not depend on them.

    Attributes:
        weights_bytes: what has to be kept in memory beside the language model.
        beside: a computation of its own on the text; None for none.
        riding: a context in which the model's pass is read.
        after: what is left to do when the pass is over, with its next-token logits.
    """

    weights_bytes: int
    beside: Callable[[str], object] | None = None
    riding: Callable[[], AbstractContextManager[Any]] = nullcontext
    after: Callable[[Any, Logits], object] | None = None


class Method(ABC):
    """A way to label texts, with its settings.

    Args:
        settings: of the class's own `Settings`.
    """

    Settings: ClassVar[type[Settings]]
    role: ClassVar[Role] = "baseline"

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def seeded(self) -> bool:
        """Whether there is chance in it, so that seeds differ."""
        return False

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """Why it cannot be used on these rows or this machine, in a sentence; None if it can."""
        return None

    @abstractmethod
    def fit(self, place: Workplace, seeds: Sequence[int]) -> list[Outcome]:
        """Learns from the training rows and labels the others, once a seed.

        Args:
            place: rows, states and model.
            seeds: one or more; a single one for a method that is not `seeded`.
        """

    @abstractmethod
    def serving(self, place: Workplace) -> Serving:
        """What it adds while a text is served."""
