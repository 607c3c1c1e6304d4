"""Attention functions of our own, made known to transformers. Knows no probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def register_attention(name: str, attention: Callable[..., Any], mask: str) -> str:
    """Makes an attention known to transformers; what `set_attn_implementation` then takes.

    Args:
        name: of the attention.
        attention: the function, with the arguments of transformers' own.
        mask: name of the function in `transformers.masking_utils` that makes its masks.
    """
    from transformers import AttentionInterface, AttentionMaskInterface, masking_utils

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, getattr(masking_utils, mask))
    return name
