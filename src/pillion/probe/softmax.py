"""Softmax-weighted means of tokens, one a head, as an associative fold.

The running maximum, denominator and weighted sum of METHODS 2.3: any cut of a sequence gives the
same mean. Differentiable, so that training and serving run the same lines. Knows no network.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pillion.probe.network import State

FLOOR = -1e30
"""Score of what must get no weight; finite, so that an empty row stays finite."""


def summarise(
    scores: Float[Tensor, "layer batch token head"],
    content: Float[Tensor, "layer batch token *content"],
    mask: Bool[Tensor, "batch token"],
) -> State:
    """The state of one chunk.

    Args:
        scores: of every token; masked ones may be anything.
        content: what is averaged: [..., width] for all heads alike, [..., head, width] for each.
        mask: which positions hold a token.

    Returns:
        `max` and `denominator`, [layer, batch, head], and `sum`, [layer, batch, head, width].
    """
    # Asking an accelerator would wait for it: there every chunk takes the way with a mask.
    full = mask.device.type == "cpu" and bool(mask.all())
    if not full:
        seen = mask[None, :, :, None]
        scores = scores.masked_fill(~seen, FLOOR)
        hidden = ~mask.view(1, *mask.shape, *[1] * (content.ndim - 3))
        content = content.masked_fill(hidden, 0.0)
    top = scores.detach().amax(2)
    weights = (scores - top[:, :, None]).exp()
    if not full:
        weights = weights * mask[None, :, :, None]  # a row without tokens gets no weight
    return {"max": top, "denominator": weights.sum(2), "sum": _weighted(weights, content)}


def _weighted(weights: Tensor, content: Tensor) -> Float[Tensor, "layer batch head width"]:
    if content.ndim == weights.ndim:
        return weights.transpose(2, 3) @ content
    return (weights[..., None] * content).sum(2)


def merge(first: State, second: State) -> State:
    """Rescales both to the larger maximum and adds."""
    top = torch.maximum(first["max"], second["max"])
    one, two = (first["max"] - top).exp_(), (second["max"] - top).exp_()
    return {
        "max": top,
        "denominator": first["denominator"] * one + second["denominator"] * two,
        "sum": first["sum"] * one[..., None] + second["sum"] * two[..., None],
    }


def mean(state: State) -> Float[Tensor, "layer batch head width"]:
    """The weighted means; zero where there was no token."""
    total = state["denominator"].clamp(min=torch.finfo(torch.float32).tiny)
    return state["sum"] / total[..., None]
