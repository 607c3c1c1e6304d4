"""Softmax-weighted means of tokens, one a head, as an associative fold.

The running maximum, denominator and weighted sum of METHODS 2.3: any cut of a sequence gives the
same mean. Differentiable, so that training and serving run the same lines. Knows no network.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.probe.network import State
from pillion.probe.tensors import Mask, Scores

FLOOR = -1e30
"""Score of what must get no weight; finite, so that an empty row stays finite."""


def summarise(
    scores: Scores,
    content: Float[Tensor, "layer batch token *content"],
    mask: Mask,
) -> State:
    """The state of one chunk.

    Args:
        scores: of every token; masked ones may be anything.
        content: what is averaged: [..., width] for all heads alike, [..., head, width] for each.
        mask: which positions hold a token.

    Returns:
        `max` and `denominator`, [layer, batch, head], and `sum`, [layer, batch, head, width].
    """
    top, weights, content = weigh(scores, content, mask)
    return {"max": top, "denominator": weights.sum(2), "sum": _weighted(weights, content)}


def weigh(
    scores: Scores,
    content: Float[Tensor, "layer batch token *content"],
    mask: Bool[Tensor, "batch token"],
) -> tuple[
    Float[Tensor, "layer batch head"],
    Scores,
    Float[Tensor, "layer batch token *content"],
]:
    """Each head's largest score, weights relative to it, and content; both 0 where no token is."""
    if all_there(mask):
        top = scores.detach().amax(2)
        return top, (scores - top[:, :, None]).exp(), content
    seen = mask[None, :, :, None]
    top = (scores := scores.masked_fill(~seen, FLOOR)).detach().amax(2)
    hidden = ~mask.view(1, *mask.shape, *[1] * (content.ndim - 3))
    # A row without tokens gets no weight.
    return top, (scores - top[:, :, None]).exp() * seen, content.masked_fill(hidden, 0.0)


def all_there(mask: Mask) -> bool:
    """Whether every position holds a token, as far as it may be asked without waiting."""
    # An accelerator would have to answer: there every chunk takes the way with a mask.
    return mask.device.type == "cpu" and bool(mask.all())


def _weighted(weights: Tensor, content: Tensor) -> Float[Tensor, "layer batch head width"]:
    if content.ndim == weights.ndim:
        return weights.transpose(2, 3) @ content
    return (weights[..., None] * content).sum(2)


def merge(first: State, second: State, columns: Int[Tensor, " content"] | None = None) -> State:
    """Rescales both to the larger maximum and adds.

    Args:
        first: a state.
        second: that of the next chunk.
        columns: the head of every column of `sum`, where that is not [..., head, width].
    """
    top = torch.maximum(first["max"], second["max"])
    one, two = (first["max"] - top).exp_(), (second["max"] - top).exp_()
    return {
        "max": top,
        "denominator": first["denominator"] * one + second["denominator"] * two,
        "sum": first["sum"] * _spread(one, columns) + second["sum"] * _spread(two, columns),
    }


def mean(
    state: State, columns: Int[Tensor, " content"] | None = None
) -> Float[Tensor, "layer batch *content"]:
    """The weighted means; zero where there was no token. `columns` as of `merge`."""
    total = state["denominator"].clamp(min=torch.finfo(torch.float32).tiny)
    return state["sum"] / _spread(total, columns)


def _spread(of_heads: Float[Tensor, "layer batch head"], columns: Tensor | None) -> Tensor:
    return of_heads[..., None] if columns is None else of_heads.index_select(2, columns)
