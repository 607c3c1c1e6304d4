"""The table of aggregators: the names that `--probe` accepts, and how a network is made of one.

Knows neither engines nor files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError

from pillion.core import Shape
from pillion.errors import ConfigError, unknown_name
from pillion.probe.gate import Gate, GateSettings
from pillion.probe.gate_mlp import GateMlp, GateMlpSettings
from pillion.probe.glot import Glot, GlotSettings
from pillion.probe.mha import CausalMha, Mha, MhaSettings
from pillion.probe.network import Network, Settings
from pillion.probe.pooling import MaxPooling, MeanPooling, PoolingSettings
from pillion.probe.vote import Vote, VoteSettings


@dataclass(frozen=True)
class Aggregator:
    """A registered aggregator: its classes, what the name sets, and what training starts from.

    Attributes:
        network: the class.
        settings: its settings class.
        preset: settings that the name stands for; a user's settings go on top.
        learning_rate: a rate that trains it well (chosen on validation data, `docs/log.md`).
    """

    network: Any
    settings: type[Settings]
    preset: dict[str, Any] = field(default_factory=dict[str, Any])
    learning_rate: float = 3e-3


AGGREGATORS: dict[str, Aggregator] = {
    "gate": Aggregator(Gate, GateSettings, learning_rate=5e-3),
    "gate-mlp": Aggregator(GateMlp, GateMlpSettings, learning_rate=1e-3),
    "gate-paper": Aggregator(
        Gate, GateSettings, {"num_heads": 1, "tanh": True, "normalise": False}
    ),
    "attention": Aggregator(Vote, VoteSettings, {"tokens": "attention", "slope": True}),
    "multimax": Aggregator(Vote, VoteSettings, {"tokens": "max"}),
    "rolling": Aggregator(Vote, VoteSettings, {"tokens": "rolling"}),
    "concat": Aggregator(
        Vote, VoteSettings, {"tokens": "mean", "over_layers": "concat", "num_heads": 1}
    ),
    "mean": Aggregator(Vote, VoteSettings, {"tokens": "mean", "num_heads": 1}),
    "first": Aggregator(Vote, VoteSettings, {"tokens": "first", "num_heads": 1}),
    "last": Aggregator(Vote, VoteSettings, {"tokens": "last", "num_heads": 1}),
    "mha": Aggregator(Mha, MhaSettings, learning_rate=1e-3),
    "mha-causal": Aggregator(CausalMha, MhaSettings, {"causal": True}, learning_rate=1e-3),
    "pooling": Aggregator(MeanPooling, PoolingSettings),
    "pooling-max": Aggregator(MaxPooling, PoolingSettings),
    "glot": Aggregator(Glot, GlotSettings, learning_rate=1e-3),
}
"""Several names of one class are presets of it: the combinations that have a name elsewhere."""


def aggregator(name: str) -> Aggregator:
    """The registered aggregator of that name.

    Raises:
        ConfigError: for an unknown name, listing the known ones.
    """
    if name not in AGGREGATORS:
        raise unknown_name("probe", name, AGGREGATORS)
    return AGGREGATORS[name]


def make_settings(name: str, **options: Any) -> Settings:
    """The settings of aggregator `name` with `options` on top of what the name stands for.

    Raises:
        ConfigError: for an unknown name or option, or a value that does not fit.
    """
    entry = aggregator(name)
    for option in options:
        if option not in entry.settings.model_fields:
            raise unknown_name(f"option of probe {name!r}:", option, entry.settings.model_fields)
    try:
        return entry.settings(**{**entry.preset, **options})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise ConfigError(f"Probe {name!r}, {where}: {first['msg']}.") from error


def build(name: str, shape: Shape, settings: Settings | None = None, seed: int = 0) -> Network:
    """A fresh network: same seed, same weights; another seed, others.

    Args:
        name: a name of `AGGREGATORS`.
        shape: layers read, width, outputs.
        settings: of this aggregator; None for its defaults.
        seed: of the initial weights. The caller's random state is left as it was.
    """
    entry = aggregator(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return entry.network(shape, settings or make_settings(name))
