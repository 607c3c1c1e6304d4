"""Folded states of the pieces of full pages, under the numbers that an engine gave the pages.

Knows pages, pieces and states; neither requests nor scopes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pillion.probe.network import State, join_rows


class Pages:
    """A page's first piece lies in a place of the page's own number, more of them behind all pages.

    Args:
        example: the state of a page's piece, of one batch row.
        num_pages: how many there are.
    """

    def __init__(self, example: State, num_pages: int) -> None:
        self._first = {
            n: t.new_zeros(t.shape[0], num_pages, *t.shape[2:]) for n, t in example.items()
        }
        self._more = {n: t.new_zeros(t.shape[0], 0, *t.shape[2:]) for n, t in example.items()}
        self._num_pages = num_pages
        self._pieces: dict[int, list[tuple[int, int]]] = {}
        self._free: list[int] = []

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
        for page, some in zip(pages, pieces, strict=True):
            self._free += [place for _, place in self._pieces.pop(page, [])[1:]]
            if some:
                own = [page, *(self._new_place() for _ in some[1:])]
                self._pieces[page] = list(zip(some, own, strict=True))
                places += own
        if not places:
            return
        device = next(iter(states.values())).device
        index = torch.tensor(places, device=device)
        if all(place < self._num_pages for place in places):
            for name, tensor in states.items():
                self._first[name].index_copy_(1, index, tensor)
            return
        own = index < self._num_pages
        for name, tensor in states.items():
            self._first[name].index_copy_(1, index[own], tensor[:, own])
            self._more[name].index_copy_(1, index[~own] - self._num_pages, tensor[:, ~own])

    def find(self, page: int, bits: int) -> list[int] | None:
        """Places of the pieces that are just these tokens; None if none that are kept make them up.

        Whoever filled the page may have known other turns in the same tokens.
        """
        found = [one for one in self._pieces.get(page, []) if not one[0] & ~bits]
        return [place for _, place in found] if sum(own for own, _ in found) == bits else None

    def states(self, places: Sequence[int]) -> State:
        """States of places that `find` gave, a batch row each."""
        index = torch.tensor(places, device=next(iter(self._first.values())).device)
        far = [i for i, place in enumerate(places) if place >= self._num_pages]
        if not far:
            return {name: tensor.index_select(1, index) for name, tensor in self._first.items()}
        near = index.where(index < self._num_pages, 0)
        found = {name: tensor.index_select(1, near) for name, tensor in self._first.items()}
        for name, tensor in self._more.items():
            found[name][:, far] = tensor.index_select(1, index[far] - self._num_pages)
        return found

    def _new_place(self) -> int:
        if not self._free:
            have = next(iter(self._more.values())).shape[1]
            grown = max(8, have)
            empty = {n: t.new_zeros(t.shape[0], grown, *t.shape[2:]) for n, t in self._more.items()}
            self._more = join_rows([self._more, empty])
            self._free = [self._num_pages + have + i for i in range(grown)][::-1]
        return self._free.pop()
