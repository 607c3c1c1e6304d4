"""Fold states of many requests, a row each: in one batch where states are of one size.

Knows folds and rows, nothing of what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.probe.network import Fold, State, join_rows, pick
from pillion.sidecache.upload import upload


class Folds:
    """A running state in every row.

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
        self._batch = {name: tensor[:, []] for name, tensor in self._empty.items()}
        self._single: dict[int, State] = {}

    @property
    def held_bytes(self) -> int:
        """Memory of all states, in bytes."""
        states = [self._batch, *self._single.values()]
        return sum(tensor.nbytes for state in states for tensor in state.values())

    def make_room(self, num_rows: int) -> None:
        """From now on there are so many rows, or more."""
        have = next(iter(self._batch.values())).shape[1]
        if self.alike and num_rows > have:
            more = {n: t.expand(-1, num_rows - have, *t.shape[2:]) for n, t in self._empty.items()}
            self._batch = join_rows([self._batch, more])

    def reset(self, row: int) -> None:
        """The state of no token."""
        self._single.pop(row, None)
        if self.alike:
            self.put(row, self._empty)

    def put(self, row: int, state: State) -> None:
        """A state in the place of what was there."""
        if not self.alike:
            self._single[row] = state
            return
        for name, tensor in state.items():
            self._batch[name][:, row] = tensor.squeeze(1)

    def add(self, row: int, state: State) -> None:
        """Merges one row with what follows."""
        if self.alike:
            before = {name: tensor[:, row : row + 1] for name, tensor in self._batch.items()}
            self.put(row, self.fold.merge(before, state))
        else:
            before = self._single.get(row)
            self._single[row] = state if before is None else self.fold.merge(before, state)

    def add_each(self, rows: Sequence[int], new: State) -> Float[Tensor, "row output"]:
        """Merges every row with its own of `new`; logits of the results."""
        if not self.alike:
            for place, row in enumerate(rows):
                self.add(row, {n: t[:, place : place + 1].clone() for n, t in new.items()})
            return self.logits(rows)
        index = upload(rows, next(iter(new.values())).device)
        state = self.fold.merge(pick(self._batch, index), new)
        for name, tensor in state.items():
            self._batch[name].index_copy_(1, index, tensor)
        return self.fold.finish(state)

    def logits(self, rows: Sequence[int]) -> Float[Tensor, "row output"]:
        """Logits of what some rows hold."""
        if self.alike:
            some = next(iter(self._batch.values()))
            return self.fold.finish(pick(self._batch, upload(rows, some.device)))
        return torch.cat([self.fold.finish(self._single[row]) for row in rows])


def reduce_rows(fold: Fold, rows: State) -> State:
    """All rows merged to one, in their order: neighbours with neighbours."""
    last: State | None = None
    while (count := next(iter(rows.values())).shape[1]) > 1:
        if count % 2:
            odd = {name: tensor[:, -1:] for name, tensor in rows.items()}
            last = odd if last is None else fold.merge(odd, last)
        first, second = (
            {name: tensor[:, side : count - count % 2 : 2] for name, tensor in rows.items()}
            for side in (0, 1)
        )
        rows = fold.merge(first, second)
    return rows if last is None else fold.merge(rows, last)
