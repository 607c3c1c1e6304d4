"""What a trained gate attends to: how much it counts each layer, and how few tokens within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pillion.backends import Backend
from pillion.core.batching import batches_by_length
from pillion.errors import ConfigError
from pillion.extract.collector import BATCH_TOKENS
from pillion.probe import Artefact
from pillion.probe.gate import Gate
from pillion.runtime import pad_batch
from pillion.runtime.scope_masks import read_mask
from pillion.runtime.values import ValueKeeper


@dataclass(frozen=True)
class LayerAttention:
    """What a gate does with one layer.

    Attributes:
        weight: softmax weight of the layer, the mean over heads and rows.
        entropy: of the weights of its tokens, as a share of that of equal weights, the mean over
            heads and over rows of two tokens or more: 1 reads all alike, 0 a single one. None for
            a layer that the gate does not read, or where no row has two tokens.
    """

    weight: float
    entropy: float | None


UNREAD = LayerAttention(0.0, None)
"""Of a layer that the gate does not read."""


def learned_attention(
    backend: Backend, artefact: Artefact, token_ids: Sequence[Sequence[int]]
) -> dict[int, LayerAttention]:
    """Layer -> what the gate does with it; the weights of all layers sum to 1.

    Args:
        backend: the model that the gate was trained on.
        artefact: a gate.
        token_ids: of the rows, each with one token or more.

    Raises:
        ConfigError: the probe is not a gate.
    """
    network = artefact.network
    if not isinstance(network, Gate):
        raise ConfigError(
            f"Probe {artefact.name!r} is a {artefact.card.probe}, which has no layer weights of "
            "its own; give a gate."
        )
    keeper = ValueKeeper(backend, artefact)
    weights, entropies = torch.zeros(2, len(keeper.layers), dtype=torch.float64)
    num_long = 0
    with backend.watch(keeper, keeper.layers):
        for batch in batches_by_length([len(row) for row in token_ids], BATCH_TOKENS):
            rows = [token_ids[row] for row in batch]
            backend.forward(*pad_batch(rows))
            read = read_mask(keeper.mask, rows, artefact.card.scope)
            of_tokens, of_layers = network.attention(keeper.values, read)
            weights += of_layers.mean(2).sum(1).cpu()
            own = entropy(of_tokens, read)
            entropies += own.sum(1).cpu()
            num_long += own.shape[1]
    means = (weights / len(token_ids)).tolist()
    spread = (entropies / num_long).tolist() if num_long else [None] * len(means)
    found = map(LayerAttention, means, spread)
    return dict(zip(keeper.layers, found, strict=True))


def entropy(
    weights: Float[Tensor, "layer batch token head"], mask: Bool[Tensor, "batch token"]
) -> Float[Tensor, "layer long"]:
    """`-sum_t a_t ln a_t / ln T` of every row of T >= 2 tokens, the mean over heads.

    Args:
        weights: of tokens; they sum to 1 in each row.
        mask: the tokens that are read.
    """
    lengths = mask.sum(1)
    is_long = lengths > 1
    nats = -torch.special.xlogy(weights, weights).sum(2).mean(2)
    return nats[:, is_long] / lengths[is_long].log()
