"""The table of aggregators: the names that `--kind` accepts, and how a network is made of one.

Knows neither engines nor files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError

from pillion.core import Shape
from pillion.core.strict import sentence
from pillion.errors import ConfigError, unknown_name
from pillion.probe.gate import Gate, GateSettings
from pillion.probe.gate_mlp import GateMlp, GateMlpSettings
from pillion.probe.mha import CausalMha, Mha, MhaSettings
from pillion.probe.network import Network, NetworkSettings
from pillion.probe.pooling import Pooling, PoolingSettings
from pillion.probe.vote import Vote, VoteSettings


@dataclass(frozen=True)
class Aggregator:
    """A registered aggregator: its classes, what the name sets, and what training starts from.

    Attributes:
        network: the class.
        settings: its settings class.
        preset: settings that the name stands for; a user's settings go on top.
        learning_rate: a rate that trains it well (chosen on validation data, `docs/log.md`).
        former: settings that cards of saved probes have and that are gone, with the only value that
            still means what this probe computes; None where any does.
    """

    network: Any
    settings: type[NetworkSettings]
    preset: dict[str, Any] = field(default_factory=dict[str, Any])
    learning_rate: float = 3e-3
    former: dict[str, Any] = field(default_factory=dict[str, Any])


_GATE: dict[str, Any] = {"token_dropout": None}
_MHA: dict[str, Any] = {"pool": "mean"}
_VOTE: dict[str, Any] = {"over_layers": "static", "prune": None, "penalty": None, **_GATE}
_CONCAT: dict[str, Any] = {
    **_VOTE,
    "over_layers": "concat",
    "tokens": "mean",
    "num_heads": 1,
    "slope": False,
    "window": None,
}

AGGREGATORS: dict[str, Aggregator] = {
    "gate": Aggregator(Gate, GateSettings, learning_rate=5e-3, former=_GATE),
    "gate-mlp": Aggregator(GateMlp, GateMlpSettings, learning_rate=1e-3, former=_GATE),
    "gate-paper": Aggregator(
        Gate, GateSettings, {"num_heads": 1, "tanh": True, "normalise": False}, former=_GATE
    ),
    "attention": Aggregator(
        Vote, VoteSettings, {"tokens": "attention", "slope": True}, former=_VOTE
    ),
    "multimax": Aggregator(Vote, VoteSettings, {"tokens": "max"}, former=_VOTE),
    "rolling": Aggregator(Vote, VoteSettings, {"tokens": "rolling"}, former=_VOTE),
    "concat": Aggregator(
        Pooling, PoolingSettings, {"by_layer": True, "normalise": True}, former=_CONCAT
    ),
    "mha": Aggregator(Mha, MhaSettings, learning_rate=1e-3, former=_MHA),
    "mha-causal": Aggregator(
        CausalMha, MhaSettings, {"causal": True}, learning_rate=1e-3, former=_MHA
    ),
    "pooling": Aggregator(Pooling, PoolingSettings),
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


def make_settings(name: str, **options: Any) -> NetworkSettings:
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
        raise ConfigError(f"Probe {name!r}, {sentence(error)}") from error


def current_settings(name: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a saved probe without those that aggregators no longer have.

    Raises:
        ConfigError: for an unknown name, or a setting that makes it another probe than is left.
    """
    former = aggregator(name).former
    for option, left in former.items():
        if left is not None and option in saved and saved[option] != left:
            raise ConfigError(
                f"Probe {name!r} has {option}={saved[option]!r}, which is gone; what is left "
                f"is {left!r}."
            )
    return {option: value for option, value in saved.items() if option not in former}


def build(
    name: str, shape: Shape, settings: NetworkSettings | None = None, seed: int = 0
) -> Network:
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
