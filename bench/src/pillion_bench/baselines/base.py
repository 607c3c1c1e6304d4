"""The contract of a method: labelled rows in, out comes what says the probabilities of any rows.

A method chooses on validation rows whatever it chooses, and sees other texts only where it is asked
about them. It does not know files, intervals or the other methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
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
from pillion.probe import Network
from pillion.train import evaluate_networks
from pillion_bench.problem import Part, Problem
from pillion_bench.states import States

Ask = Callable[[Part], Float[np.ndarray, "row output"]]
"""From rows to their probabilities."""

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
    """What a method has learnt with one seed.

    Attributes:
        validation: probabilities of the validation rows.
        ask: what says those of any other rows.
        parameters: numbers that were learnt.
        chosen: what was chosen on validation, and what it was chosen from.
    """

    validation: Float[np.ndarray, "held output"]
    ask: Ask
    parameters: int
    chosen: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, eq=False)
class OfNetwork:
    """A network that is asked about rows; it reads the states of all their tokens.

    Attributes:
        network: a probe's.
        states: of the rows.
        layers: those that it reads; None for all that are kept.
    """

    network: Network
    states: States
    layers: tuple[int, ...] | None = None

    def __call__(self, part: Part) -> Float[np.ndarray, "row output"]:
        """Probabilities of the rows."""
        return ask_together([self], part)[0]


def ask_together(asks: Sequence[Ask], part: Part) -> list[Float[np.ndarray, "row output"]]:
    """What each says of the same rows; networks of the same layers share one read of the states."""
    reading: dict[tuple[int, ...] | None, dict[int, OfNetwork]] = {}
    found: dict[int, np.ndarray] = {}
    for place, ask in enumerate(asks):
        if isinstance(ask, OfNetwork):
            reading.setdefault(ask.layers, {})[place] = ask
        else:
            found[place] = ask(part)
    for layers, own in reading.items():
        states = next(iter(own.values())).states
        networks, source = [one.network for one in own.values()], states.source(part, layers)
        said = evaluate_networks(networks, source, states.problem.task, progress=states.progress)
        found |= {place: probs.numpy() for place, probs in zip(own, said, strict=True)}
    return [found[place] for place in range(len(asks))]


Logits = Float[Tensor, "batch vocab"]


@dataclass(frozen=True)
class Serving:
    """What a method adds while a text is served, to measure its time.

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

    @property
    def rules(self) -> dict[str, Any]:
        """By what it chooses, where that is no setting and was another in older versions."""
        return {}

    @property
    def is_one_choice(self) -> bool:
        """Whether all its seeds choose together, so that one of them alone would be another."""
        return False

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """Why it cannot be used on these rows or this machine, in a sentence; None if it can."""
        return None

    @abstractmethod
    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """Learns from the training rows, once a seed; some learn when the next outcome is taken.

        Args:
            place: rows, states and model.
            seeds: one or more; a single one for a method that is not `seeded`.
        """

    @abstractmethod
    def serving(self, place: Workplace) -> Serving:
        """What it adds while a text is served."""
