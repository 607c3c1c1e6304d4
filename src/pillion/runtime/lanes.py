"""Fold states of many requests, that grow by a token each at a time: all in one batch.

Knows folds and names of requests, nothing of what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.probe.network import Fold, State, pick


class Lanes:
    """A state a request; where states have one size they are rows of one batch.

    Args:
        fold: of the states.
        example: values of one token.

    Attributes:
        alike: whether states have one size, however many tokens they were folded from.
    """

    def __init__(self, fold: Fold, example: Float[Tensor, "layer 1 1 tap"]) -> None:
        self.fold = fold
        one = torch.ones(1, 1, dtype=torch.bool, device=example.device)
        few = fold.summarise(example, one)
        many = fold.summarise(example.expand(-1, -1, 3, -1), one.expand(-1, 3))
        self.alike = all(few[name].shape == many[name].shape for name in few)
        self._empty = {n: t.clone() for n, t in fold.summarise(example, ~one).items()}
        self._batch = {name: tensor[:, :0] for name, tensor in self._empty.items()}
        self._row: dict[str, int] = {}
        self._free: list[int] = []
        self._single: dict[str, State] = {}

    @property
    def held_bytes(self) -> int:
        """Memory of all states, in bytes."""
        states = [self._batch, *self._single.values()]
        return sum(t.numel() * t.element_size() for s in states for t in s.values())

    def begin(self, request: str) -> None:
        """The state of no token."""
        if self.alike:
            self.put(request, self._empty)
        else:
            self._single.pop(request, None)

    def put(self, request: str, state: State) -> None:
        """A state of one row, in the place of what the request had."""
        if not self.alike:
            self._single[request] = state
            return
        row = self._row.get(request)
        if row is None:
            row = self._row[request] = self._new_row()
        for name, tensor in state.items():
            self._batch[name][:, row] = tensor[:, 0]

    def forget(self, request: str) -> None:
        """Its row is free for another."""
        self._single.pop(request, None)
        if (row := self._row.pop(request, None)) is not None:
            self._free.append(row)

    def advance(
        self, requests: Sequence[str], values: Float[Tensor, "layer row 1 tap"]
    ) -> Float[Tensor, "row output"]:
        """Folds one more token of each; logits of all that was folded."""
        mask = torch.ones(len(requests), 1, dtype=torch.bool, device=values.device)
        new = self.fold.summarise(values, mask)
        if not self.alike:
            return self._advance_singles(requests, new)
        rows = torch.tensor([self._row[request] for request in requests], device=values.device)
        state = self.fold.merge(pick(self._batch, rows), new)
        for name, tensor in state.items():
            self._batch[name].index_copy_(1, rows, tensor)
        return self.fold.finish(state)

    def _advance_singles(self, requests: Sequence[str], new: State) -> Float[Tensor, "row output"]:
        found: list[Tensor] = []
        for row, request in enumerate(requests):
            state = {name: tensor[:, row : row + 1] for name, tensor in new.items()}
            if (before := self._single.get(request)) is not None:
                state = self.fold.merge(before, state)
            self._single[request] = state
            found.append(self.fold.finish(state))
        return torch.cat(found)

    def _new_row(self) -> int:
        if not self._free:
            first = len(self._row)
            more = max(8, first)
            self._batch = {
                name: torch.cat([tensor, self._empty[name].expand(-1, more, *tensor.shape[2:])], 1)
                for name, tensor in self._batch.items()
            }
            self._free = list(range(first, first + more))[::-1]
        return self._free.pop()
