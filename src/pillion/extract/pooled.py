"""One vector a row and layer, pooled while the model runs or of a source: what linear heads need.

Promises that no token's state is kept: memory is rows x layers x dim, whatever the texts' lengths.
Does not know labels or probes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Backend, Step
from pillion.cache import Workspace
from pillion.core import Scope
from pillion.core.batching import batches_by_length
from pillion.errors import StateError, unknown_name
from pillion.extract.collector import BATCH_TOKENS, pad
from pillion.extract.progress import Progress, silent
from pillion.extract.source import StateSource
from pillion.probe.network import inverse_rms
from pillion.runtime.scope_masks import read_mask

Pool = Literal["mean", "mean-rms", "last"]
"""`mean` of the tokens' states; `mean-rms` of the states, each RMS-normalised; `last` token."""


def pooled_states(
    backend: Backend,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    pool: Pool = "mean",
    progress: Progress = silent,
    scope: Scope = "all",
) -> Float[Tensor, "layer row dim"]:
    """The pooled states of every row, in fp32, from one pass over the texts.

    Args:
        backend: the model.
        token_ids: of every row, each with one token or more.
        layers: those to read, in this order.
        pool: how tokens become one vector.
        progress: told of every batch.
        scope: whose tokens are pooled, one or more in every row.

    Raises:
        ConfigError: an unknown pool.
        StateError: a state is not finite; the message names row and layer.
    """
    if pool not in POOLS:
        raise unknown_name("pool", pool, POOLS)
    lengths = [len(row) for row in token_ids]
    out = torch.empty(len(layers), len(lengths), backend.identity.dim)
    watcher, done = _Pooler(layers, POOLS[pool], out), 0
    with backend.watch(watcher, layers):
        for batch in batches_by_length(lengths, BATCH_TOKENS):
            ids, mask = pad([token_ids[row] for row in batch])
            watcher.rows = torch.tensor(batch)
            watcher.read = read_mask(mask, [token_ids[row] for row in batch], scope)
            backend.forward(ids, mask)
            done += int(mask.sum())
            progress("read", done, sum(lengths))
    wrong = (~torch.isfinite(out).all(-1)).nonzero()
    for place, row in wrong.tolist()[:1]:
        raise StateError(
            f"The hidden states of row {row}, layer {layers[place]} are not finite; run the model "
            "in bfloat16 or float32, or leave the row out."
        )
    return out


def pooled_source(
    source: StateSource, pool: Pool = "mean", progress: Progress = silent
) -> Float[Tensor, "layer row dim"]:
    """The pooled states of a source's rows, in fp32; `pooled_states` gives those of a pass.

    Args:
        source: of rows with one token or more each.
        pool: how tokens become one vector.
        progress: told of every batch, as stage `pool`.
    """
    out = torch.empty(len(source.layers), len(source.lengths), source.dim)
    workspace, done, total = Workspace(), 0, sum(source.lengths)
    for batch in batches_by_length(source.lengths, BATCH_TOKENS):
        out[:, batch] = pool_batch(*source.read_batch(batch, workspace), pool).to(out.device)
        done += sum(source.lengths[row] for row in batch)
        progress("pool", done, total)
    return out


def pool_batch(
    hidden: Float[Tensor, "layer batch token dim"], mask: Bool[Tensor, "batch token"], pool: Pool
) -> Float[Tensor, "layer batch dim"]:
    """A batch's pooled states, in fp32.

    Args:
        hidden: states.
        mask: of their tokens, one or more in every row.
        pool: how tokens become one vector.
    """
    # A layer at a time: the fp32 copy of all of them would be the largest thing in memory.
    return torch.stack([POOLS[pool](layer, mask) for layer in hidden])


class _Pooler:
    """A watcher that keeps one vector a row and layer."""

    def __init__(
        self,
        layers: Sequence[int],
        pool: _Pooling,
        out: Float[Tensor, "layer row dim"],
    ) -> None:
        self.rows: Int[Tensor, " batch"] = torch.empty(0, dtype=torch.long)
        self.read: Bool[Tensor, "batch token"] = torch.zeros(0, 0, dtype=torch.bool)
        self._places = {layer: place for place, layer in enumerate(layers)}
        self._pool, self._out = pool, out
        self._mask: Bool[Tensor, "batch token"] = torch.zeros(0, 0, dtype=torch.bool)

    def start(self, step: Step) -> None:
        """Which positions are tokens that count."""
        self._mask = self.read.to(step.mask.device) & step.mask

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Pools a layer's states; they are not kept."""
        pooled = self._pool(hidden, self._mask.to(hidden.device))
        self._out[self._places[layer], self.rows] = pooled.to(self._out.device)

    def end(self, cache: object | None) -> None:
        """Nothing is left over."""

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """Nothing to move: passes here keep no KV cache."""


def _mean(
    hidden: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch dim"]:
    return _weighted(hidden, mask / mask.sum(1, keepdim=True))


def _mean_rms(
    hidden: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch dim"]:
    hidden = hidden.float()
    return _weighted(hidden, inverse_rms(hidden) * (mask / mask.sum(1, keepdim=True)))


def _last(
    hidden: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch dim"]:
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, (mask * places).argmax(1)].float()


def _weighted(
    hidden: Float[Tensor, "batch token dim"], weights: Float[Tensor, "batch token"]
) -> Float[Tensor, "batch dim"]:
    return torch.bmm(weights[:, None], hidden.float())[:, 0]


_Pooling = Callable[[Tensor, Tensor], Tensor]
POOLS: dict[str, _Pooling] = {"mean": _mean, "mean-rms": _mean_rms, "last": _last}
assert set(POOLS) == set(get_args(Pool))
