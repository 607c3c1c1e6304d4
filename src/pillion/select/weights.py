"""How much a trained gate counts each layer: the softmax weights of its second stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pillion.backends import Backend
from pillion.core.batching import batches_by_length
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.probe.gate import Gate
from pillion.runtime import pad_batch
from pillion.runtime.spoken import read_mask
from pillion.runtime.values import ValueKeeper

BATCH_TOKENS = 2048


def learned_weights(
    backend: Backend, artefact: Artefact, token_ids: Sequence[Sequence[int]]
) -> dict[int, float]:
    """Layer -> its weight, the mean over heads and rows; the weights of all layers sum to 1.

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
    total = torch.zeros(len(keeper.layers))
    with backend.watch(keeper, keeper.layers):
        for batch in batches_by_length([len(row) for row in token_ids], BATCH_TOKENS):
            rows = [token_ids[row] for row in batch]
            backend.forward(*pad_batch(rows))
            read = read_mask(keeper.mask, rows, artefact.card.scope)
            total += network.layer_weights(keeper.values, read).sum(1).cpu()
    return dict(zip(keeper.layers, (total / len(token_ids)).tolist(), strict=True))
