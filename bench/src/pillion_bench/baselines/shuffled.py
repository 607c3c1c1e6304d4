"""The control of shuffled labels: another method, trained on labels that belong to other rows.

What it still scores is what the test rows give away: class shares, or a leak.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from pillion.backends import Backend
from pillion_bench.baselines.base import Method, Outcome, Role, Serving, Settings, Workplace
from pillion_bench.problem import Part, Problem


class ShuffledSettings(Settings):
    """Settings of the control.

    Attributes:
        of: kind of the method that is trained.
        settings: its own.
    """

    of: str = "all-layers"
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])


class Shuffled(Method):
    """A method on labels that were dealt out anew among training and among validation rows."""

    Settings: ClassVar[type[Settings]] = ShuffledSettings
    role: ClassVar[Role] = "control"

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        from pillion_bench.baselines import make_method

        self.method = make_method(settings.of, settings.settings, "shuffled")

    @property
    def seeded(self) -> bool:
        """See `Method.seeded`."""
        return True

    @property
    def rules(self) -> dict[str, Any]:
        """Those of the method."""
        return self.method.rules

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """Whatever keeps the method from being used."""
        return self.method.why_not(problem, backend)

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`; each seed deals the labels anew."""
        for seed in seeds:
            dealt = replace(place, problem=_dealt(place.problem, seed))
            yield from self.method.fit(dealt, [seed])

    def serving(self, place: Workplace) -> Serving:
        """That of the method."""
        return self.method.serving(place)


def _dealt(problem: Problem, seed: int) -> Problem:
    random = np.random.default_rng(seed)

    def shuffled(part: Part) -> Part:
        return replace(part, targets=part.targets[random.permutation(len(part))])

    return replace(problem, train=shuffled(problem.train), validation=shuffled(problem.validation))
