"""A model's own eager attention, in packed steps as in passes of their own.

transformers serves models with eager attention through a function of its own, `paged|eager`: it
leaves out what a model adds to attention (Gemma 2 caps its scores), and a pass between two steps
gets no mask from it. Here both kinds of pass run the function that the model runs by itself, with
the mask that belongs to the pass. Knows no probes.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from pillion.backends.attention import register_attention
from pillion.errors import ConfigError

NAME = "pillion_own"
STEPS = "paged|eager"
"""What transformers must find set while it makes its buffers, or it makes no masks of a step."""


def register() -> str:
    """See `register_attention`."""
    return register_attention(NAME, own_attention, "eager_mask")


def own_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """`eager_attention_forward` of the file that the model's attention is written in.

    Raises:
        ConfigError: there is no such function.
    """
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise ConfigError(
            f"{type(module).__name__} has no eager attention that can be run in packed steps; load "
            "the model with attn_implementation='sdpa'."
        )
    return own(module, query, key, value, mask, **kwargs)
