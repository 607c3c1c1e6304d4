"""pillion's own probes as a method: any aggregator, its training, the layers that it reads.

With a grid, every combination is trained on the first seed and the best on validation goes on to
the others. Every probe may train for longer under the same rule: while its last epoch is its best,
twice as many are tried. Does not know how a probe is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from pillion.core import Shape, defaults
from pillion.extract import StateSource
from pillion.probe import Artefact, build, make_settings
from pillion.runtime import Reading, watch
from pillion.train import CRITERION, Examples, ProbeConfig, Trained, TrainSettings, train
from pillion_bench.baselines.base import (
    Method,
    OfNetwork,
    Outcome,
    Role,
    Serving,
    Settings,
    Workplace,
    ask_together,
)
from pillion_bench.choice import Quality, quality, together
from pillion_bench.problem import Part
from pillion_bench.suite import checked


class ProbeSettings(Settings):
    """Settings of a probe and its training; see `ProbeConfig` and `TrainSettings`.

    Attributes:
        probe: a name of `pillion.probe.AGGREGATORS`.
        settings: of that aggregator.
        learning_rate: None for the aggregator's own.
        weight_decay: of AdamW.
        layers: those to read; None for all that the data set keeps.
        train: what `TrainSettings` takes: epochs, batch_size, warmup, patience, class_weights, ...
        longest: epochs at most. `train.epochs` is where every probe begins; while half of the seeds
            or more find their last epoch the best, twice as many are tried, up to this.
        grid: values to choose from on validation: of `learning_rate`, `weight_decay`, or any
            setting of the aggregator.
    """

    probe: str = "gate"
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=0.5, ge=0)
    layers: tuple[int, ...] | None = None
    train: dict[str, Any] = Field(default_factory=dict[str, Any])
    longest: int = Field(default=defaults.LONGEST, ge=1)
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict[str, tuple[Any, ...]])


class ProbeMethod(Method):
    """A probe on the states of every token."""

    Settings: ClassVar[type[Settings]] = ProbeSettings
    role: ClassVar[Role] = "probe"

    def __init__(self, settings: ProbeSettings) -> None:
        super().__init__(settings)
        self.training = checked(TrainSettings, settings.train, f"probe {settings.probe!r}, train")
        self.configs = [self._config(values) for values in self._combinations()]

    @property
    def seeded(self) -> bool:
        """See `Method.seeded`."""
        return True

    @property
    def rules(self) -> dict[str, Any]:
        """See `Method.rules`: how epochs are chosen, where they are."""
        return epoch_rules(self.training)

    @property
    def is_one_choice(self) -> bool:
        """See `Method.is_one_choice`: of the grid, and of how many epochs there are."""
        return True

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`; all that is trained at a time shares one read of the states."""
        config, facts = self.configs[0], dict[str, Any]()
        if len(self.configs) > 1:
            grid = replace(place, folder=place.folder / "grid")
            tried = self._train(grid, [self._seeded(one, seeds[0]) for one in self.configs])
            found = self._qualities(place, tried)
            config = self.configs[max(range(len(tried)), key=lambda at: found[at].rank)]
            facts["tried"] = [
                _described(one) | of.facts for one, of in zip(tried, found, strict=True)
            ]
        trained, epochs = self._long_enough(place, [self._seeded(config, seed) for seed in seeds])
        return self._outcomes(place, trained, facts | epochs)

    def _long_enough(
        self, place: Workplace, configs: list[ProbeConfig]
    ) -> tuple[list[Trained], dict[str, Any]]:
        """The same configuration with its seeds, trained for the number of epochs that is best."""
        runs: dict[int, list[Trained]] = {}
        epochs = self.training.epochs
        while not runs or (_wants_more(runs[max(runs)]) and epochs <= self.longest):
            runs[epochs] = self._train(place, configs, epochs)
            epochs *= 2
        found = {count: together(self._qualities(place, run)) for count, run in runs.items()}
        best = max(found, key=lambda count: found[count].rank)
        tried = {str(count): one.facts for count, one in found.items()}
        at_edge = best == max(runs) and _wants_more(runs[best])
        return runs[best], {"epochs_tried": tried, "at_edge": at_edge}

    @property
    def longest(self) -> int:
        """Epochs after which training ends at the latest."""
        return max(self.settings.longest, self.training.epochs)

    def _qualities(self, place: Workplace, trained: list[Trained]) -> list[Quality]:
        """How good each is on validation."""
        problem, states, layers = place.problem, place.states, self.settings.layers
        asks = [OfNetwork(one.unbiased, states, layers) for one in trained]
        targets, lead = problem.validation.targets, problem.leading[0]
        return [
            quality(lead, problem.task, said, targets)
            for said in ask_together(asks, problem.validation)
        ]

    def _source(self, place: Workplace, part: Part) -> StateSource:
        return place.states.source(part, self.settings.layers)

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`."""
        artefact = self._untrained(place)
        backend = place.states.backend

        @contextmanager
        def riding() -> Generator[Reading]:
            with watch(backend, [artefact]) as reading:
                yield reading

        return Serving(
            artefact.network.num_parameters * 4,
            riding=riding,
            after=lambda reading, _: reading.verdicts(),
        )

    def _combinations(self) -> list[dict[str, Any]]:
        names = list(self.settings.grid)
        return [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*self.settings.grid.values())
        ]

    def _config(self, values: dict[str, Any]) -> ProbeConfig:
        own = self.settings
        moved = {"learning_rate": own.learning_rate, "weight_decay": own.weight_decay}
        moved |= {name: values[name] for name in values if name in moved}
        rest = {name: value for name, value in values.items() if name not in moved}
        content = {"probe": own.probe, "settings": {**own.settings, **rest}, **moved}
        return checked(ProbeConfig, content, f"probe {own.probe!r}")

    @staticmethod
    def _seeded(config: ProbeConfig, seed: int) -> ProbeConfig:
        return config.model_copy(update={"seed": seed})

    def _train(
        self, place: Workplace, configs: list[ProbeConfig], epochs: int | None = None
    ) -> list[Trained]:
        problem = place.problem
        training, held = (
            Examples(self._source(place, part), part.targets) for part in problem.chosen_on
        )
        count = epochs or self.training.epochs
        # A second fit, from validation rows too, is for test rows alone.
        refit = self.training.refit and problem.test is not None
        rows_a_step = self.training.rows_a_step(len(problem.train))
        return train(
            training,
            held,
            problem.task,
            len(problem.space.names),
            [config.at_batch(rows_a_step) for config in configs],
            self.training.model_copy(update={"epochs": count, "refit": refit}),
            place.progress,
            checkpoint=place.folder / f"{len(configs)}-{configs[0].seed}-{count}",
            device=place.states.backend.device,
        )

    def _outcomes(
        self, place: Workplace, trained: list[Trained], facts: dict[str, Any]
    ) -> list[Outcome]:
        states, layers = place.states, self.settings.layers
        held = ask_together(
            [OfNetwork(one.unbiased, states, layers) for one in trained], place.problem.validation
        )
        return [
            Outcome(
                said,
                OfNetwork(one.network, states, layers),
                one.network.num_parameters,
                {**_described(one), "train": self.training.model_dump(), **facts},
            )
            for one, said in zip(trained, held, strict=True)
        ]

    def _untrained(self, place: Workplace) -> Artefact:
        states, problem, name = place.states, place.problem, self.settings.probe
        layers = self.settings.layers or states.layers
        config = self.configs[0]
        shape = Shape(len(layers), states.backend.identity.dim, problem.num_outputs)
        network = build(name, shape, make_settings(name, **config.settings))
        return Artefact.of(
            name,
            network,
            probe=name,
            task=problem.task,
            labels=problem.space.names,
            layers=layers,
            template=problem.spec.template,
            model=states.backend.identity,
            data={"sha256": "", "path": "none", "num_rows": 0, "split": "none"},
            seed=0,
            training={},
            metrics={},
        )


def epoch_rules(training: TrainSettings) -> dict[str, Any]:
    """What `Method.rules` says of a training: by what its best epoch is chosen, if it is."""
    return {"epochs_by": CRITERION} if training.keep == "best" else {}


def _wants_more(run: Sequence[Trained]) -> bool:
    """Whether the last epoch is the best of half of the seeds or more."""
    return 2 * sum(one.best_epoch == one.epochs for one in run) >= len(run)


def _log_loss(trained: Trained) -> float:
    loss = trained.curve[trained.best_epoch - 1]["log_loss"]
    assert loss is not None
    return loss


def _described(trained: Trained) -> dict[str, Any]:
    config = trained.config
    return {
        "probe": config.probe,
        "settings": make_settings(config.probe, **config.settings).model_dump(),
        "learning_rate": config.rate,
        "weight_decay": config.weight_decay,
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
        "log_loss": _log_loss(trained),
        "train_seconds": round(trained.seconds, 1),
    }
