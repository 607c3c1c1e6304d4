"""Copies hidden states, layer by layer, from a running model to where they belong.

Promises one copy a row and layer and no reference to the model's own tensors. Does not know
whether the place is a shard or a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Backend, Step


class Collector:
    """A watcher that fills one block [layer, token, dim] a row.

    Args:
        layers: those that are watched, in the order of the blocks.

    Attributes:
        layers: as given.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self._places = {layer: place for place, layer in enumerate(layers)}
        self._by_layer: list[tuple[Tensor, ...]] = []

    def aim(self, blocks: Sequence[Float[Tensor, "layer _token dim"]]) -> None:
        """Says where the rows of the next pass go, in their order."""
        self._by_layer = list(zip(*(block.unbind(0) for block in blocks), strict=True))

    def start(self, step: Step) -> None:
        """Nothing to prepare: rows are padded on the right."""

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Copies the tokens of every row to its block; from an accelerator, all rows at once."""
        hidden = hidden.to("cpu")
        blocks = self._by_layer[self._places[layer]]
        for row, block in zip(hidden.unbind(0), blocks, strict=True):
            block.copy_(row[: len(block)])

    def end(self, cache: object | None) -> None:
        """Lets go of the blocks."""
        self._by_layer = []

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """Nothing to move: passes here keep no KV cache."""


MIN_SHARED_TOKENS = 8
"""A beginning that all rows share is run once if it has so many tokens, as a chat template has."""


def run_batch(
    backend: Backend,
    collector: Collector,
    rows: Sequence[Sequence[int]],
    blocks: Sequence[Float[Tensor, "layer _token dim"]],
) -> None:
    """Runs one padded batch of rows through a watched model, into their blocks.

    What the rows begin with in common is run once, and its KV cache repeated; but not where the
    highest blocks need not run at all, which a KV cache would want.
    """
    shared, cache = shared_tokens(rows), None
    if backend.identity.num_layers in collector.layers and shared >= MIN_SHARED_TOKENS:
        first, *others = [block[:, :shared] for block in blocks]
        collector.aim([first])
        cache = backend.new_cache()
        backend.forward(*pad([rows[0][:shared]]), cache)
        for block in others:
            block.copy_(first)
        cache = backend.fork(cache, len(rows))
    known = 0 if cache is None else shared
    collector.aim([block[:, known:] for block in blocks])
    token_ids, mask = pad([row[known:] for row in rows])
    before = torch.ones(len(rows), known, dtype=torch.bool)
    backend.forward(token_ids, torch.cat([before, mask], dim=1), cache)


def shared_tokens(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens several rows begin with in common; each has one more at least."""
    if len(rows) < 2:
        return 0
    # Of sorted rows the first and the last differ most.
    first, *_, last = sorted(map(tuple, rows))
    most = min(map(len, rows)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def pad(
    rows: Sequence[Sequence[int]],
) -> tuple[Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]:
    """Token ids padded on the right with 0, and the mask of the tokens."""
    lengths = torch.tensor([len(row) for row in rows])
    token_ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        token_ids[place, : len(row)] = torch.tensor(row)
    return token_ids, torch.arange(token_ids.shape[1]) < lengths[:, None]
