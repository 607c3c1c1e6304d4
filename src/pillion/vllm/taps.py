"""Hidden states to values, inside vLLM's forward pass.

Values go to memory that a captured graph goes on writing. Nothing here waits for the device or
depends on what a step holds. Knows no request and no page.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.probe.group import Group
from pillion.sidecache import page_numbers

STACKED_TOKENS = 256
"""Chunks up to this many tokens are tapped in all layers at once, which takes a dozen operations in
the place of several a layer; longer ones layer by layer, without a copy of all their states."""


@dataclass(frozen=True)
class Room:
    """What probes need beside a model.

    Attributes:
        layers: the model's layers that they read, ascending.
        token_numbers: fp32 numbers that are kept of each token of a step.
        page_numbers: fp32 numbers beside every block of the KV cache.
    """

    layers: tuple[int, ...]
    token_numbers: int
    page_numbers: int

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Room:
        """What groups of probes need."""
        return cls(
            tuple(sorted({layer for one in groups for layer in one.layers})),
            sum(len(one.layers) * one.num_values for one in groups),
            sum(map(page_numbers, groups)),
        )

    def holds(self, other: Room) -> bool:
        """Whether others can take the place of these: no more memory, no other layers."""
        return (
            other.token_numbers <= self.token_numbers
            and other.page_numbers <= self.page_numbers
            and set(other.layers) <= set(self.layers)
        )


class Taps:
    """Values of the tokens of a step, in the order in which vLLM runs them.

    Args:
        groups: of the probes, in fp32.
        max_tokens: most tokens of a step.
        device: where the model runs.

    Attributes:
        room: that was made.
        groups: of the probes that ride now.
        values: of each group, [layer, token, tap].
        slots: place of each token in the KV cache.
    """

    def __init__(self, groups: Sequence[Group], max_tokens: int, device: torch.device) -> None:
        self.room, self.max_tokens, self.device = Room.of(groups), max_tokens, device
        self.slots = torch.zeros(max_tokens, dtype=torch.long, device=device)
        self._memory = torch.zeros(max_tokens * self.room.token_numbers, device=device)
        self._place = {layer: place for place, layer in enumerate(self.room.layers)}
        self._seconds = 0.0
        self.use(groups)

    def use(self, groups: Sequence[Group]) -> None:
        """Other probes, for which there is room."""
        self.groups, self.values = tuple(groups), list[Tensor]()
        begin = 0
        for one in groups:
            shape = len(one.layers), self.max_tokens, one.num_values
            size = shape[0] * shape[1] * shape[2]
            self.values.append(self._memory[begin : begin + size].view(shape))
            begin += size

    @property
    def held_bytes(self) -> int:
        """Memory of a step's values, in bytes."""
        return self._memory.nbytes + self.slots.nbytes

    def see(
        self,
        hidden: Sequence[Float[Tensor, "chunk dim"]],
        slots: Int[Tensor, " slot"] | None,
    ) -> None:
        """Taps a step; its states need not be kept.

        Args:
            hidden: states of every layer of `room.layers`.
            slots: place of each token in the KV cache; None in a run that only warms up.
        """
        begin, num_tokens = time.perf_counter(), len(hidden[0])
        # Widened once, for products and norms alike.
        stacked = torch.stack(list(hidden)).float() if num_tokens <= STACKED_TOKENS else None
        for one, values in zip(self.groups, self.values, strict=True):
            places = [self._place[layer] for layer in one.layers]
            if stacked is None:
                for index, place in enumerate(places):
                    states = hidden[place].float()[None]
                    one.layer_values(index, states, values[index, None, :num_tokens])
                continue
            whole = len(places) == len(self.room.layers)
            own = stacked if whole else torch.stack([stacked[place] for place in places])
            # Tokens as batch rows of one token each: nothing then depends on their number.
            values[:, :num_tokens] = one.all_values(own[:, :, None])[:, :, 0]
        if slots is not None:
            self.slots[:num_tokens].copy_(slots[:num_tokens])
        self._seconds += time.perf_counter() - begin

    def take_seconds(self) -> float:
        """Seconds that the host has spent in `see` since the last call."""
        taken, self._seconds = self._seconds, 0.0
        return taken
