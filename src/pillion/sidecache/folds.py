"""Fold states of many requests, a row each: in one block of memory where states are of one size.

Knows folds and rows, nothing of what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.probe.network import Fold, State
from pillion.sidecache.packing import Packing
from pillion.sidecache.upload import upload


class Folds:
    """A running state in every row.

    Args:
        fold: of the states.
        example: values of one token.

    Attributes:
        alike: whether states have one size, however many tokens they were folded from.
        packing: how states of one size lie in memory.
        memory: where they are so: the state of no token first, then one for every row.
    """

    def __init__(self, fold: Fold, example: Float[Tensor, "layer 1 1 tap"]) -> None:
        self.fold = fold
        one = torch.ones(1, 1, dtype=torch.bool, device=example.device)
        few = fold.summarise(example, one)
        many = fold.summarise(example.expand(-1, -1, 3, -1), one.expand(-1, 3))
        self.alike = all(few[name].shape == many[name].shape for name in few)
        self.packing = Packing(few)
        self.memory = self.packing.pack(fold.summarise(example, ~one) if self.alike else few)
        self._single: dict[int, State] = {}

    @property
    def held_bytes(self) -> int:
        """Memory of all states, in bytes."""
        rows = self.memory[1:].nbytes
        return rows + sum(t.nbytes for state in self._single.values() for t in state.values())

    def make_room(self, num_rows: int) -> None:
        """From now on there are so many rows, or more."""
        have = len(self.memory) - 1
        if self.alike and num_rows > have:
            self.memory = torch.cat([self.memory, self.memory[:1].expand(num_rows - have, -1)])

    def reset(self, row: int) -> None:
        """The state of no token."""
        if self.alike:
            self.memory[row + 1].copy_(self.memory[0])
        else:
            self._single.pop(row, None)

    def put(self, row: int, state: State) -> None:
        """A state in the place of what was there."""
        if not self.alike:
            self._single[row] = state
            return
        self.packing.put(self.memory[row + 1 : row + 2], state)

    def add(self, row: int, state: State) -> None:
        """Merges one row with what follows."""
        if self.alike:
            before = self.packing.unpack(self.memory[row + 1 : row + 2])
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
        index = upload([row + 1 for row in rows], self.memory.device)
        before = self.packing.unpack(self.memory.index_select(0, index))
        after = self.packing.pack(self.fold.merge(before, new))
        self.memory.index_copy_(0, index, after)
        return self.finish(after)

    def logits(self, rows: Sequence[int]) -> Float[Tensor, "row output"]:
        """Logits of what some rows hold."""
        if not self.alike:
            return torch.cat([self.fold.finish(self._single[row]) for row in rows])
        index = upload([row + 1 for row in rows], self.memory.device)
        return self.finish(self.memory.index_select(0, index))

    def finish(self, packed: Float[Tensor, "row number"]) -> Float[Tensor, "row output"]:
        """Logits of states that lie in rows of their own."""
        return self.fold.finish(self.packing.unpack(packed))


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
