"""A serving engine's pages as tests play them, and states of its tokens; nothing of a model."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


@functools.cache
def _state(layers: int, dim: int, text: tuple[int, ...]) -> Tensor:
    noise = torch.Generator().manual_seed(hash(text) % 2**31)
    return torch.randn(layers, dim, generator=noise)


def states(num_layers: int, dim: int, tokens: Sequence[int]) -> Tensor:
    """[layer, token, dim]: each of the text up to its token, as a causal model's would be."""
    ends = range(1, len(tokens) + 1)
    return torch.stack([_state(num_layers, dim, tuple(tokens[:n])) for n in ends], 1)


class PageCache:
    """Which pages are free, how many requests own the others, and which page ends what prefix.

    Page 0 is given to nobody.

    Args:
        num_pages: of the KV cache.

    Attributes:
        cached: the page that ends each known prefix; it may be free.
    """

    def __init__(self, num_pages: int) -> None:
        self._free = list(range(1, num_pages))
        self._owners = dict.fromkeys(range(num_pages), 0)
        self.cached: dict[tuple[int, ...], int] = {}

    def find(self, prefix: Sequence[int]) -> int | None:
        """The page that ends a prefix, which has one more owner now; None for an unknown one."""
        page = self.cached.get(tuple(prefix))
        if page is not None:
            self.own(page)
        return page

    def own(self, page: int) -> None:
        """One owner more."""
        if page in self._free:
            self._free.remove(page)
        self._owners[page] += 1

    def take(self) -> int:
        """The page that has been free for longest; what it held is forgotten."""
        page = self._free[0]
        for key, value in list(self.cached.items()):
            if value == page:
                del self.cached[key]
        self.own(page)
        return page

    def drop(self, page: int) -> None:
        """One owner less; without any a page is free, and keeps its prefix for now."""
        self._owners[page] -= 1
        if not self._owners[page]:
            self._free.append(page)
