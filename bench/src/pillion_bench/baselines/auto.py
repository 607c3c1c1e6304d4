"""The choice of `pillion train --kind auto` as a method: closed form, gate or gates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import Field

from pillion.train import Examples, TrainSettings, choose_probe, evaluate_networks
from pillion_bench.baselines.base import (
    Method,
    OfNetwork,
    Outcome,
    Role,
    Serving,
    Settings,
    Workplace,
)
from pillion_bench.baselines.probe import ProbeMethod, ProbeSettings, epoch_rules
from pillion_bench.suite import checked


class AutoSettings(Settings):
    """Settings of the choice.

    Attributes:
        train: of gates; what `TrainSettings` takes.
    """

    train: dict[str, Any] = Field(default_factory=dict[str, Any])


class AutoMethod(Method):
    """The probe that the rows ask for, by cross-validation."""

    Settings: ClassVar[type[Settings]] = AutoSettings
    role: ClassVar[Role] = "probe"

    def __init__(self, settings: AutoSettings) -> None:
        super().__init__(settings)
        self.training = checked(TrainSettings, settings.train, "probe 'auto', train")

    @property
    def seeded(self) -> bool:
        """See `Method.seeded`."""
        return True

    @property
    def rules(self) -> dict[str, Any]:
        """See `Method.rules`."""
        return epoch_rules(self.training)

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`."""
        problem, states = place.problem, place.states
        sources = {part.name: states.source(part) for part in problem.chosen_on}
        training, held = (Examples(sources[part.name], part.targets) for part in problem.chosen_on)
        found: list[Outcome] = []
        for seed in seeds:
            chosen = choose_probe(
                *(training, held, problem.task, len(problem.space.names), self.training, seed),
                *(place.progress, place.folder / str(seed), states.backend.device),
            )
            one = chosen.trained
            (said,) = evaluate_networks([one.unbiased], sources["validation"], problem.task)
            ask = OfNetwork(one.network, states)
            found.append(Outcome(said.numpy(), ask, one.network.num_parameters, chosen.facts))
        return found

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`: as the dearest that it chooses, three gates."""
        settings = ProbeSettings(probe="gate", settings={"members": 3})
        return ProbeMethod(settings).serving(place)
