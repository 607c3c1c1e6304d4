"""Folded states of the pieces of full pages, under the numbers that an engine gave the pages.

Knows pages, pieces and states; neither requests nor scopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.probe.group import Group
from pillion.probe.network import State, join_rows
from pillion.sidecache.upload import upload

SPARE = 8
"""Where an engine gives the memory: a further piece for every so many pages."""


class Pages:
    """A page's first piece lies in a place of the page's own number, more of them behind all pages.

    Args:
        example: the state of a page's piece, of one batch row.
        num_pages: how many there are.
        memory: for all places, where an engine gives it: then there are no more than fit, and a
            piece that finds no place is not kept. None to take as much as is needed.
    """

    def __init__(
        self, example: State, num_pages: int, memory: Float[Tensor, " number"] | None = None
    ) -> None:
        if memory is None:
            every = {
                n: t.new_zeros(t.shape[0], num_pages, *t.shape[2:]) for n, t in example.items()
            }
        else:
            every = _views(example, memory)
        self._first = {n: t[:, :num_pages] for n, t in every.items()}
        self._more = {n: t[:, num_pages:] for n, t in every.items()}
        self._num_pages, self._grows = num_pages, memory is None
        self._pieces: dict[int, list[tuple[int, int]]] = {}
        self._free = [num_pages + i for i in range(self._num_more)][::-1]

    @property
    def held_bytes(self) -> int:
        """Memory of all pieces, in bytes."""
        return sum(t.nbytes for part in (self._first, self._more) for t in part.values())

    def store(self, pages: Sequence[int], pieces: Sequence[Sequence[int]], states: State) -> None:
        """Pages are full: what was kept under their numbers goes.

        Args:
            pages: numbers of the pages.
            pieces: bits of the pieces of each, disjoint, in the order of the text; may be none.
            states: of all pieces, a batch row each; not looked at where there is none.
        """
        places: list[int] = []
        rows: list[int] = []
        row = 0
        for page, some in zip(pages, pieces, strict=True):
            self._free += [place for _, place in self._pieces.pop(page, [])[1:]]
            own = [page if i == 0 else self._new_place() for i in range(len(some))]
            found = [
                (bits, at, row + i) for i, (bits, at) in enumerate(zip(some, own, strict=True))
            ]
            kept = [(bits, at, n) for bits, at, n in found if at is not None]
            if kept:
                self._pieces[page] = [(bits, at) for bits, at, _ in kept]
                places += [at for _, at, _ in kept]
                rows += [n for _, _, n in kept]
            row += len(some)
        if len(rows) < row:
            index = upload(rows, next(iter(states.values())).device)
            states = {name: tensor.index_select(1, index) for name, tensor in states.items()}
        self._write(places, states)

    def find(self, page: int, bits: int) -> list[int] | None:
        """Places of the pieces that are just these tokens; None if none that are kept make them up.

        Whoever filled the page may have known other turns in the same tokens.
        """
        found = [one for one in self._pieces.get(page, []) if not one[0] & ~bits]
        return [place for _, place in found] if sum(own for own, _ in found) == bits else None

    def states(self, places: Sequence[int]) -> State:
        """States of places that `find` gave, a batch row each."""
        device = next(iter(self._first.values())).device
        index = upload([min(place, self._num_pages - 1) for place in places], device)
        found = {name: tensor.index_select(1, index) for name, tensor in self._first.items()}
        if far := [i for i, place in enumerate(places) if place >= self._num_pages]:
            own, index = self._behind([places[i] for i in far], far, device)
            for name, tensor in self._more.items():
                found[name].index_copy_(1, index, tensor.index_select(1, own))
        return found

    # -- inside

    @property
    def _num_more(self) -> int:
        return next(iter(self._more.values())).shape[1]

    def _write(self, places: Sequence[int], states: State) -> None:
        """States to their places, a batch row each."""
        if not places:
            return
        device = next(iter(states.values())).device
        far = [i for i, place in enumerate(places) if place >= self._num_pages]
        if not far:
            index = upload(places, device)
            for name, tensor in states.items():
                self._first[name].index_copy_(1, index, tensor)
            return
        near = [i for i, place in enumerate(places) if place < self._num_pages]
        rows, index = upload(near, device), upload([places[i] for i in near], device)
        own, behind = self._behind([places[i] for i in far], far, device)
        for name, tensor in states.items():
            self._first[name].index_copy_(1, index, tensor.index_select(1, rows))
            self._more[name].index_copy_(1, own, tensor.index_select(1, behind))

    def _behind(
        self, places: Sequence[int], rows: Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Places behind the pages as `_more` counts them, and their rows."""
        return upload([p - self._num_pages for p in places], device), upload(rows, device)

    def _new_place(self) -> int | None:
        if not self._free and self._grows:
            have = self._num_more
            grown = max(8, have)
            empty = {n: t.new_zeros(t.shape[0], grown, *t.shape[2:]) for n, t in self._more.items()}
            self._more = join_rows([self._more, empty])
            self._free = [self._num_pages + have + i for i in range(grown)][::-1]
        return self._free.pop() if self._free else None


def page_numbers(one: Group) -> int:
    """fp32 numbers that a page takes, where an engine gives the memory."""
    if one.scope == "response":
        return 0
    values = one.empty_values(len(one.layers), 1, 1).zero_()
    mask = torch.ones(1, 1, dtype=torch.bool, device=values.device)
    size = _numbers(one.fold.summarise(values, mask))
    return size if one.scope == "all" else size + -(-size // SPARE)


def _numbers(example: State) -> int:
    """fp32 numbers of a state of one batch row."""
    return sum(tensor.numel() for tensor in example.values())


def _views(example: State, memory: Float[Tensor, " number"]) -> State:
    """As many states as fit into some memory, one after the other."""
    size, begin = _numbers(example), 0
    num = len(memory) // size
    rows = memory[: num * size].view(num, size)
    found: State = {}
    for name, one in example.items():
        shape = one.shape[0], *one.shape[2:]
        own = rows[:, begin : begin + prod(shape)].unflatten(1, shape)
        found[name], begin = own.transpose(0, 1), begin + prod(shape)
    return found
