"""pillion's own probes as a method: any aggregator, its training, the layers that it reads.

With a grid, every combination is trained on the first seed and the best on validation goes on to
the others. Does not know how a probe is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import Field

from pillion.core import Shape
from pillion.evals.baselines.base import Method, Outcome, Role, Serving, Settings, Workplace
from pillion.evals.problem import Part
from pillion.evals.suite import checked
from pillion.probe import Artefact, Network, build, make_settings
from pillion.runtime import Reading, watch
from pillion.train import Examples, ProbeConfig, Trained, TrainSettings, evaluate_networks, train


class ProbeSettings(Settings):
    """Settings of a probe and its training; see `ProbeConfig` and `TrainSettings`.

    Attributes:
        probe: a name of `pillion.probe.AGGREGATORS`.
        settings: of that aggregator.
        learning_rate: None for the aggregator's own.
        weight_decay: of AdamW.
        layers: those to read; None for all that the data set keeps.
        train: what `TrainSettings` takes: epochs, batch_size, warmup, patience, class_weights, ...
        grid: values to choose from on validation: of `learning_rate`, `weight_decay`, or any
            setting of the aggregator.
    """

    probe: str = "gate"
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=0.5, ge=0)
    layers: tuple[int, ...] | None = None
    train: dict[str, Any] = Field(default_factory=dict[str, Any])
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

    def fit(self, place: Workplace, seeds: Sequence[int]) -> list[Outcome]:
        """See `Method.fit`; all that is trained at a time shares one read of the states."""
        if len(self.configs) == 1:
            trained = self._train(place, [self._seeded(self.configs[0], seed) for seed in seeds])
            return self._outcomes(place, trained, {})
        tried = self._train(place, [self._seeded(one, seeds[0]) for one in self.configs])
        best = min(tried, key=_log_loss)
        facts = {"tried": [_described(one) for one in tried]}
        others = [self._seeded(best.config, seed) for seed in seeds[1:]]
        more = self._train(place, others) if others else []
        return self._outcomes(place, [best, *more], facts)

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

    def _train(self, place: Workplace, configs: list[ProbeConfig]) -> list[Trained]:
        problem, layers = place.problem, self.settings.layers
        parts = (problem.train, problem.validation)
        training, held = (
            Examples(place.states.source(part, layers), part.targets) for part in parts
        )
        rows_a_step = self.training.rows_a_step(len(problem.train))
        return train(
            training,
            held,
            problem.task,
            len(problem.space.names),
            [config.at_batch(rows_a_step) for config in configs],
            self.training,
            place.progress,
            checkpoint=place.folder / f"{len(configs)}-{configs[0].seed}",
            device=place.states.backend.device,
        )

    def _outcomes(
        self, place: Workplace, trained: list[Trained], facts: dict[str, Any]
    ) -> list[Outcome]:
        problem = place.problem

        def said(networks: list[Network], part: Part) -> list[Any]:
            source = place.states.source(part, self.settings.layers)
            return evaluate_networks(networks, source, problem.task)

        held = said([one.unbiased for one in trained], problem.validation)
        tested = said([one.network for one in trained], problem.test)
        return [
            Outcome(
                of_held.numpy(),
                of_test.numpy(),
                one.network.num_parameters,
                {**_described(one), "train": self.training.model_dump(), **facts},
            )
            for one, of_held, of_test in zip(trained, held, tested, strict=True)
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
        "best_epoch": trained.best_epoch,
        "log_loss": _log_loss(trained),
        "train_seconds": round(trained.seconds, 1),
    }
