"""Folded states of the pieces of pages, under the numbers that an engine gave the pages.

A page is begun, gets a place for every piece as it comes, and is closed when it is full: from then
on its pieces are found. Knows pages, pieces and states; neither requests nor scopes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.probe.group import Group
from pillion.probe.network import State
from pillion.sidecache.packing import Packing
from pillion.sidecache.upload import upload

SPARE = 8
"""Where an engine gives the memory: a further piece for every so many pages."""
LEAST_GROWN = 16
"""Where memory is taken as it is needed: at least as many pieces more as a part of the pages, for
growing copies all of them."""


class Pages:
    """A page's first piece lies in a place of the page's own number, more of them behind all pages.

    Args:
        example: the state of a page's piece, of one batch row.
        num_pages: how many there are.
        memory: for all places, where an engine gives it: then there are no more than fit, and a
            piece that finds no place is not kept. None to take as much as is needed.

    Attributes:
        packing: how a state lies in its place.
        memory: the places.
    """

    def __init__(
        self, example: State, num_pages: int, memory: Float[Tensor, " number"] | None = None
    ) -> None:
        self.packing = Packing(example)
        size, self._grows = self.packing.size, memory is None
        if memory is None:
            self.memory = torch.zeros(num_pages, size, device=next(iter(example.values())).device)
        else:
            num = len(memory) // size
            self.memory = memory[: num * size].view(num, size)
        self._num_pages = num_pages
        self._pieces: dict[int, list[tuple[int, int]]] = {}
        self._begun: dict[int, list[int | None]] = {}
        self._free = list(range(num_pages, len(self.memory)))[::-1]

    @property
    def held_bytes(self) -> int:
        """Memory of all pieces, in bytes."""
        return self.memory.nbytes

    # -- in the order of a page's life

    def begin(self, page: int) -> None:
        """A page gets its first token: what was kept under its number goes."""
        gone = [place for _, place in self._pieces.pop(page, ())][1:]
        self._free += gone
        self._free += [place for place in self._begun.pop(page, ())[1:] if place is not None]
        self._begun[page] = []

    def add(self, page: int) -> int | None:
        """A place for the next piece of a page that was begun; None if there is no more room."""
        begun = self._begun[page]
        begun.append(self._new_place() if begun else page)
        return begun[-1]

    def place(self, page: int, piece: int) -> int | None:
        """Where a piece of a page that was begun lies; None if it is not kept."""
        return self._begun[page][piece]

    def close(self, page: int, pieces: Sequence[int]) -> None:
        """A page is full.

        Args:
            page: its number.
            pieces: bits of its pieces, disjoint, in the order of the text; may be none.
        """
        both = zip(pieces, self._begun.pop(page), strict=True)
        if kept := [(bits, place) for bits, place in both if place is not None]:
            self._pieces[page] = kept

    def keep(self, page: int, bits: int) -> None:
        """A page is full that is one piece, in its own place; it need not have been begun."""
        self._pieces[page] = [(bits, page)]

    def store(self, pages: Sequence[int], pieces: Sequence[Sequence[int]], states: State) -> None:
        """The whole life of pages that are filled at once.

        Args:
            pages: numbers of the pages.
            pieces: bits of the pieces of each; see `close`.
            states: of all pieces, a batch row each; not looked at where there is none.
        """
        places: list[int | None] = []
        for page, some in zip(pages, pieces, strict=True):
            self.begin(page)
            places += [self.add(page) for _ in some]
            self.close(page, some)
        kept = [i for i, place in enumerate(places) if place is not None]
        if not kept:
            return
        device = self.memory.device
        packed = self.packing.pack(states)
        if len(kept) < len(places):
            packed = packed.index_select(0, upload(kept, device))
        self.memory.index_copy_(0, upload([places[i] for i in kept], device), packed)

    # -- states

    def put(self, place: int, state: State) -> None:
        """The state of one batch row in its place."""
        self.packing.put(self.memory[place : place + 1], state)

    def find(self, page: int, bits: int) -> list[int] | None:
        """Places of the pieces that are just these tokens; None if none that are kept make them up.

        The request that filled the page may have had other turns in the same tokens.
        """
        found = [one for one in self._pieces.get(page, []) if not one[0] & ~bits]
        return [place for _, place in found] if sum(own for own, _ in found) == bits else None

    def states(self, places: Sequence[int]) -> State:
        """States of places, a batch row each."""
        index = upload(places, self.memory.device)
        return self.packing.unpack(self.memory.index_select(0, index))

    # -- inside

    def _new_place(self) -> int | None:
        if not self._free and self._grows:
            have = len(self.memory)
            more = max(8, have - self._num_pages, self._num_pages // LEAST_GROWN)
            grown = self.memory.new_zeros(have + more, self.packing.size)
            grown[:have] = self.memory
            self.memory = grown
            self._free = list(range(have, have + more))[::-1]
        return self._free.pop() if self._free else None


def page_numbers(one: Group) -> int:
    """fp32 numbers that a page takes, where an engine gives the memory."""
    if one.scope == "response":
        return 0
    values = one.empty_values(len(one.layers), 1, 1).zero_()
    size = Packing(one.fold.of_tokens(values[:, :, 0])).size
    return size if one.scope == "all" else size + -(-size // SPARE)
