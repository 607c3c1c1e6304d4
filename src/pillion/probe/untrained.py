"""Untrained probes: for what does not depend on weights, such as time and memory.

Knows neither engines nor data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pillion.core import ModelIdentity, Shape
from pillion.probe.artefact import Artefact
from pillion.probe.network import Network
from pillion.probe.registry import build, make_settings
from pillion.probe.task import num_outputs


def untrained(
    name: str,
    model: ModelIdentity,
    probe: str = "gate",
    layers: Sequence[int] | None = None,
    settings: dict[str, Any] | None = None,
    noise: int | None = None,
    **facts: Any,
) -> Artefact:
    """A probe of two labels, unless other facts are given.

    Args:
        name: what its verdicts are signed with.
        model: that it belongs to.
        probe: a name of `AGGREGATORS`.
        layers: that it reads; None for all.
        settings: of the aggregator.
        noise: seed of weights so large that every token has its say; None for those that training
            starts from.
        facts: fields of `Card` in the place of those that an untrained probe has.
    """
    read = tuple(range(model.num_layers + 1)) if layers is None else tuple(layers)
    labels = tuple(facts.get("labels", ("no", "yes")))
    known: dict[str, Any] = {
        "task": "binary" if len(labels) == 2 else "multiclass",
        "labels": labels,
        "template": "raw" if facts.get("scope", "all") == "all" else "chat",
        "data": {"sha256": "", "path": "none", "num_rows": 0, "split": "none"},
        "seed": 0,
        "training": {},
        "metrics": {},
        **facts,
    }
    shape = Shape(len(read), model.dim, num_outputs(known["task"], len(labels)))
    network = build(probe, shape, make_settings(probe, **settings or {}), known["seed"])
    if noise is not None:
        _draw(network, torch.Generator().manual_seed(noise))
    return Artefact.of(name, network, probe=probe, layers=read, model=model, **known)


@torch.no_grad()
def _draw(network: Network, noise: torch.Generator) -> None:
    for weight in network.parameters():
        weight.copy_(torch.randn(weight.shape, generator=noise) * 0.15)
    # Logits below 1, so that no probability is near 0 or 1, where errors would not show.
    hidden = 3 * torch.randn(network.shape.num_layers, 4, 7, network.shape.dim, generator=noise)
    size = network(hidden, torch.ones(4, 7, dtype=torch.bool)).square().mean().sqrt()
    for name in ("weight", "bias"):  # of the head
        network.get_parameter(name).div_(2 * size)
