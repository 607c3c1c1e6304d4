"""Keeps what one probe reads of each token, for explanations of what the token was worth.

Promises the very values that a verdict is folded from, before they are folded. Knows no engine.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Backend, Step
from pillion.probe import Artefact
from pillion.probe.group import Group


class ValueKeeper:
    """A watcher that keeps a probe's values of the last pass, and of those that it went on from.

    Args:
        backend: the model; show it what runs with `backend.watch(keeper, keeper.layers)`.
        artefact: the probe.
        wide: keep the states themselves, in fp32, instead of the tapped values.
    """

    def __init__(self, backend: Backend, artefact: Artefact, wide: bool = False) -> None:
        self.group = Group([artefact], backend.device, backend.dtype)
        self.layers, self._wide = self.group.layers, wide
        self._place = {layer: i for i, layer in enumerate(self.layers)}
        self._kept: list[list[Tensor]] = []
        self._device = backend.device
        self.mask: Bool[Tensor, "batch token"] = torch.zeros(0, 0, dtype=torch.bool)

    @property
    def values(self) -> Float[Tensor, "layer batch token tap"]:
        """Of the last pass; the states themselves where they are kept wide."""
        return torch.cat([torch.cat(chunk) for chunk in self._kept], dim=2)

    def start(self, step: Step) -> None:
        """A pass begins: what is kept is dropped, unless it goes on from there."""
        mask = step.mask.to(self._device)
        if step.past_tokens:
            self._kept, self.mask = [*self._kept, []], torch.cat([self.mask, mask], dim=1)
        else:
            self._kept, self.mask = [[]], mask

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Keeps what a layer's states give: tapped values, or the states themselves in fp32."""
        if self._wide:
            self._kept[-1].append(hidden.detach().float()[None])
        else:
            self._kept[-1].append(self.group.layer_values(self._place[layer], hidden.detach()))

    def end(self, cache: object | None) -> None:
        """All layers are there."""

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """Nothing to move: the rows of a text that is explained keep their order."""
