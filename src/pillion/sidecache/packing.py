"""States of one size as rows of numbers: what is kept of many lies in one block of memory.

Knows shapes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.probe.network import State


class Packing:
    """How the numbers of a state follow each other in a row.

    Args:
        example: a state of one batch row.

    Attributes:
        size: fp32 numbers of a state.
    """

    def __init__(self, example: State) -> None:
        self._shapes = {name: (t.shape[0], *t.shape[2:]) for name, t in example.items()}
        self._dtypes = {name: tensor.dtype for name, tensor in example.items()}
        self.size = sum(map(prod, self._shapes.values()))

    def unpack(self, rows: Float[Tensor, "row number"]) -> State:
        """Rows as the state of as many batch rows; what is fp32 lies in the same memory."""
        return {name: view.to(self._dtypes[name]) for name, view in self._views(rows)}

    def put(self, rows: Float[Tensor, "row number"], state: State) -> None:
        """A state into the memory of as many rows."""
        for name, view in self._views(rows):
            view.copy_(state[name])

    def pack(self, state: State) -> Float[Tensor, "row number"]:
        """The rows of a state, in memory of their own."""
        some = next(iter(state.values()))
        rows = torch.empty(some.shape[1], self.size, device=some.device)
        self.put(rows, state)
        return rows

    def _views(self, rows: Float[Tensor, "row number"]) -> Iterator[tuple[str, Tensor]]:
        begin = 0
        for name, shape in self._shapes.items():
            end = begin + prod(shape)
            yield name, rows[:, begin:end].unflatten(1, shape).transpose(0, 1)
            begin = end
