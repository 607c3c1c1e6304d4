"""Attention of a packed step, one request after the other, where nothing better is at hand.

transformers' masked attention lets every token of a step look at the keys of all requests and then
hides the others': with 32 requests that is 32 times the work. Flash attention on an accelerator
does better; on a processor this does. Knows nothing of probes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pillion.backends.attention import register_attention

NAME = "pillion_packed"


def register() -> str:
    """See `register_attention`."""
    return register_attention(NAME, packed_attention, "sdpa_mask")


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "batch head token width"],
    key: Float[Tensor, "batch kv_head past width"],
    value: Float[Tensor, "batch kv_head past width"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch token head width"], None]:
    """Each request's tokens attend to its own keys, up to their own place.

    A pass outside continuous batching has no `write_index` and goes to transformers' own function.
    """
    if "write_index" not in kwargs:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[return-value]
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    out = torch.empty_like(query)
    bounds = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"].tolist()
    for (begin, end), (first, last) in zip(*map(pairwise, bounds), strict=True):
        out[:, :, begin:end] = _attend(
            query[:, :, begin:end], key[:, :, first:last], value[:, :, first:last], scaling
        )
    return out.transpose(1, 2), None


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    tokens, past = query.shape[2], key.shape[2]
    if tokens == 1:
        # Heads that share keys are so many queries: no copy of the keys a head.
        one = query.view(1, key.shape[1], groups, -1)
        return F.scaled_dot_product_attention(one, key, value, scale=scaling).view(query.shape)
    if groups > 1:
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    if tokens == past:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    seen = torch.ones(tokens, past, dtype=torch.bool, device=query.device).tril(past - tokens)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)
