"""States of several layers that wait to be tapped together.

Few large operations beat many small ones where a chunk is small, and on an accelerator always, as
starting an operation is what costs there. Knows neither probes nor folds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

HELD_BYTES = 2**26
"""What waits at most: a few layers of a long chunk, all layers of a short one."""


class HeldLayers:
    """Layers in the order of the pass, until they are taken.

    Args:
        device: where they are.
        few_tokens: on a processor, chunks of more tokens are not held: states that have left its
            caches cost more to read again than small operations.

    Attributes:
        num_bytes: memory of what waits.
    """

    def __init__(self, device: torch.device, few_tokens: int) -> None:
        self._always, self._few_tokens = device.type != "cpu", few_tokens
        self._states: list[Float[Tensor, "batch chunk dim"]] = []
        self._layers: list[int] = []
        self.num_bytes = 0

    def holds(self, num_tokens: int) -> bool:
        """Whether layers of so many tokens (all rows) wait for each other."""
        return self._always or num_tokens <= self._few_tokens

    def add(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> bool:
        """One more layer; whether it is time to take them."""
        self._layers.append(layer)
        self._states.append(hidden)
        self.num_bytes += hidden.nbytes
        return self.num_bytes >= HELD_BYTES

    def take(self) -> tuple[tuple[int, ...], Float[Tensor, "layer batch chunk dim"]]:
        """All that wait, one behind the other; none does after it."""
        layers, states = tuple(self._layers), torch.stack(self._states)
        self.clear()
        return layers, states

    def clear(self) -> None:
        """Lets go of them."""
        self._layers, self._states, self.num_bytes = [], [], 0

    def __bool__(self) -> bool:
        return bool(self._layers)
