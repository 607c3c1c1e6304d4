"""Copies hidden states, layer by layer, from a running model to where they belong.

Promises one copy a row and layer and no reference to the model's own tensors. Does not know
whether the place is a shard or a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Backend, Step
from pillion.core import Scope
from pillion.core.batching import batches_by_length
from pillion.extract.scoped import kept_places


@dataclass(frozen=True)
class CopyTarget:
    """Where some tokens of a pass go.

    Attributes:
        row: of the batch.
        tokens: places in the row.
        block: as many states a layer.
    """

    row: int
    tokens: slice | Int[Tensor, " kept"]
    block: Float[Tensor, "layer _kept dim"]


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
        self._targets: Sequence[CopyTarget] = ()

    def set_targets(self, targets: Sequence[CopyTarget]) -> None:
        """Says where the states of the next pass go."""
        self._targets = targets

    def start(self, step: Step) -> None:
        """Nothing to prepare: rows are padded on the right."""

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Copies the tokens that are wanted of every row; from an accelerator, all rows at once."""
        hidden, place = hidden.to("cpu"), self._places[layer]
        for set_targets in self._targets:
            set_targets.block[place].copy_(hidden[set_targets.row][set_targets.tokens])

    def end(self, cache: object | None) -> None:
        """Lets go of the blocks."""
        self._targets = ()

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """Nothing to move: passes here keep no KV cache."""


MIN_SHARED_TOKENS = 8
"""A beginning that all rows share is run once if it has so many tokens, as a chat template has."""


BATCH_TOKENS = 2048
"""Padded tokens of a forward pass; more gains nothing and pads shorter rows further."""


def run_batch(
    backend: Backend,
    collector: Collector,
    rows: Sequence[Sequence[int]],
    blocks: Sequence[Float[Tensor, "layer _token dim"]],
    scope: Scope = "all",
) -> None:
    """Runs rows through a watched model, into their blocks.

    Blocks hold the states of the scope's tokens; a row ends behind the last of them. What rows
    begin with in common is run once, and its KV cache repeated. Rows that share nothing run in
    batches of their own, where they are many or long.
    """
    kept = [kept_places(row, scope) for row in rows]
    rows = [row[: int(places[-1]) + 1] for row, places in zip(rows, kept, strict=True)]
    shared, cache = shared_tokens(rows), None
    fills = max(collector.layers) > 0  # embeddings alone leave a KV cache empty
    if fills and backend.forks and shared >= MIN_SHARED_TOKENS:
        collector.set_targets(
            [
                CopyTarget(
                    0, _run_of(places[places < shared]), block[:, : int((places < shared).sum())]
                )
                for places, block in zip(kept, blocks, strict=True)
            ]
        )
        cache = backend.new_cache()
        backend.forward(*pad([rows[0][:shared]]), cache, watched_only=True)
        cache = backend.fork(cache, len(rows))
    if cache is not None:
        return _run_rest(backend, collector, rows, kept, blocks, cache, shared)
    for batch in batches_by_length([len(row) for row in rows], BATCH_TOKENS):
        some = [rows[place] for place in batch]
        places, own = [kept[place] for place in batch], [blocks[place] for place in batch]
        _run_rest(backend, collector, some, places, own)


def _run_rest(
    backend: Backend,
    collector: Collector,
    rows: Sequence[Sequence[int]],
    kept: Sequence[Int[Tensor, " _kept"]],
    blocks: Sequence[Float[Tensor, "layer _token dim"]],
    cache: object | None = None,
    known: int = 0,
) -> None:
    """Runs one padded batch of rows, whose first tokens a KV cache may hold."""
    targets: list[CopyTarget] = []
    for row, (places, block) in enumerate(zip(kept, blocks, strict=True)):
        before = int((places < known).sum())
        targets.append(CopyTarget(row, _run_of(places[before:] - known), block[:, before:]))
    collector.set_targets(targets)
    token_ids, mask = pad([row[known:] for row in rows])
    seen = torch.ones(len(rows), known, dtype=torch.bool)
    backend.forward(token_ids, torch.cat([seen, mask], dim=1), cache, watched_only=True)


def _run_of(places: Int[Tensor, " kept"]) -> slice | Int[Tensor, " kept"]:
    """Places as a slice where they follow each other: a copy without an index."""
    if not len(places):
        return slice(0, 0)
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places


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
