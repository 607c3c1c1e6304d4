"""Probes whose every token votes for the classes; votes are pooled over tokens, then over layers.

How the tokens of a layer become one vote (`tokens`) makes the well-known single-layer probes:
EleutherAI's attention probe, MultiMax and rolling means (arXiv 2601.11516). Layers are weighed by
learned weights. A vote is linear in the state, so each of them taps to a few numbers a token. Knows
neither engines nor files.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from pillion.core import Shape
from pillion.probe.folded import Folded
from pillion.probe.network import NetworkSettings, State
from pillion.probe.rolling import Rolling
from pillion.probe.tensors import Logits, Mask, Values
from pillion.probe.token_pools import AttentionPool, Largest, TokenPool


class VoteSettings(NetworkSettings):
    """Settings of a voting probe.

    Attributes:
        tokens: how the tokens of a layer become one vote: `max` (the largest a class), `attention`
            (softmax-weighted mean), `rolling` (the largest mean of `window` tokens in a row,
            weighted by attention).
        num_heads: H; each head has its own scores, votes and layer weights. Heads are added up.
        normalise: RMS-normalise every token's state first (no learned scale).
        slope: scores of `attention` rise or fall along the text, each head at a rate of its own.
        window: w of `rolling`, in tokens.
    """

    tokens: Literal["max", "attention", "rolling"] = "attention"
    num_heads: int = Field(default=8, ge=1)
    normalise: bool = True
    slope: bool = False
    window: int = Field(default=10, ge=2)

    @property
    def scored(self) -> bool:
        """Whether tokens carry a score beside their votes."""
        return self.tokens != "max"

    @model_validator(mode="after")
    def _fits(self) -> VoteSettings:
        if self.slope and self.tokens != "attention":
            raise ValueError(f"slope is for tokens='attention', not for {self.tokens!r}")
        return self


class Vote(Folded):
    """`logits = sum_h sum_l softmax_l(g[l,h]) tokens_t(W[h] x[l,t]) + bias`.

    x is a (normalised) state, `tokens` what the settings say. Scores, slopes and layer weights
    begin at zero, so that every probe begins as a plain mean of its tokens or windows.
    """

    settings: VoteSettings

    def __init__(self, shape: Shape, settings: VoteSettings) -> None:
        super().__init__()
        self.shape, self.settings, self.normalise = shape, settings, settings.normalise
        layers, dim, heads = shape.num_layers, shape.dim, settings.num_heads
        self.weight = nn.Parameter(torch.randn(1, dim, heads, shape.num_outputs) * 0.02 / heads)
        self.bias = nn.Parameter(torch.zeros(shape.num_outputs))
        if settings.scored:
            self.token_score = nn.Parameter(torch.zeros(layers, dim, heads))
        if settings.slope:
            self.slope = nn.Parameter(torch.zeros(heads))
        self.layer_score = nn.Parameter(torch.zeros(layers, heads))

    def columns(self) -> tuple[Float[Tensor, "layer dim own"], Float[Tensor, "dim common"]]:
        """Scores of each layer's own, and votes, whose columns all layers share."""
        none = self.weight.new_zeros(self.shape.num_layers, self.shape.dim, 0)
        return self.token_score if self.settings.scored else none, self.weight[0].flatten(1)

    def summarise(self, values: Values, mask: Mask) -> State:
        """Of one chunk, what the pool keeps."""
        heads = self.settings.num_heads
        num_scores = heads if self.settings.scored else 0
        votes = values[..., num_scores:].unflatten(-1, (heads, -1))
        return self._pool().summarise(values[..., :num_scores], votes, mask)

    def merge(self, first: State, second: State) -> State:
        """The state of both chunks together."""
        return self._pool().merge(first, second)

    def finish(self, state: State) -> Logits:
        """What was pooled, over layers, summed over heads. An empty row gives the bias."""
        pooled = self._pool().pooled(state)
        each = torch.einsum("lbhc,lh->bhc", pooled, self.layer_score.softmax(0))
        return each.sum(1) + self.bias

    def _pool(self) -> TokenPool:
        """Stage 1, with the weights as they are now."""
        settings = self.settings
        if settings.tokens == "attention":
            return AttentionPool(self.slope if settings.slope else None)
        return Rolling(settings.window) if settings.tokens == "rolling" else Largest()
