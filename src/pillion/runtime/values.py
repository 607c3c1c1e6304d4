"""Keeps what one probe reads of each token, for those who ask what the token was worth.

Promises the very values that a verdict is folded from, before they are folded. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Backend, Step
from pillion.core.batching import batches_by_length
from pillion.probe import Artefact
from pillion.runtime.attach import check
from pillion.runtime.group import Group
from pillion.runtime.language_model import pad_batch


class ValueKeeper:
    """A watcher that keeps a probe's values of the last pass.

    Args:
        artefact: the probe.
        device: where the model runs.
        dtype: of the model's states.
        wide: keep the states themselves, in fp32, instead of the tapped values.
    """

    def __init__(
        self, artefact: Artefact, device: torch.device, dtype: torch.dtype, wide: bool = False
    ) -> None:
        self.group = Group([artefact], device, dtype)
        self.layers, self._wide = self.group.layers, wide
        self._place = {layer: i for i, layer in enumerate(self.layers)}
        self._kept: list[Tensor] = []
        self.mask: Bool[Tensor, "batch token"] = torch.zeros(0, 0, dtype=torch.bool)

    @property
    def values(self) -> Float[Tensor, "layer batch token tap"]:
        """Of the last pass; the states themselves where they are kept wide or are not tapped."""
        return torch.cat(self._kept)

    def start(self, step: Step) -> None:
        """A pass begins: what is kept is dropped."""
        self._kept, self.mask = [], step.mask.to(self.group.device)

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Taps a layer."""
        if self._wide:
            self._kept.append(hidden.detach().float()[None])
        else:
            self._kept.append(self.group.layer_values(self._place[layer], hidden.detach()))

    def end(self, cache: object | None) -> None:
        """All layers are there."""

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """Nothing to move: passes here keep no KV cache."""
