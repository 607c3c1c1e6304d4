"""Probes whose every token votes for the classes; votes are pooled over tokens, then over layers.

How the tokens of a layer become one vote (`tokens`) makes the well-known single-layer probes:
EleutherAI's attention probe, MultiMax and rolling means (arXiv 2601.11516). Layers are weighed by
learned weights. A vote is linear in the state, so each of them taps to a few numbers a token. Knows
neither engines nor files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from pillion.core import Shape
from pillion.probe.network import (
    Fold,
    Network,
    Settings,
    State,
    Tap,
    running,
    scale_for,
    values_of,
)
from pillion.probe.rolling import Rolling
from pillion.probe.token_pools import Attention, Largest, TokenPool


class VoteSettings(Settings):
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


class Vote(Network):
    """`logits = sum_h sum_l softmax_l(g[l,h]) tokens_t(W[h] x[l,t]) + bias`.

    x is a (normalised) state, `tokens` what the settings say. Scores, slopes and layer weights
    begin at zero, so that every probe begins as a plain mean of its tokens or windows.
    """

    settings: VoteSettings

    def __init__(self, shape: Shape, settings: VoteSettings) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings
        layers, dim, heads = shape.num_layers, shape.dim, settings.num_heads
        self.weight = nn.Parameter(torch.randn(1, dim, heads, shape.num_outputs) * 0.02 / heads)
        self.bias = nn.Parameter(torch.zeros(shape.num_outputs))
        if settings.scored:
            self.token_score = nn.Parameter(torch.zeros(layers, dim, heads))
        if settings.slope:
            self.slope = nn.Parameter(torch.zeros(heads))
        self.layer_score = nn.Parameter(torch.zeros(layers, heads))

    def forward(
        self,
        hidden: Float[Tensor, "layer batch token dim"],
        mask: Bool[Tensor, "batch token"],
        scale: Float[Tensor, "layer batch token"] | None = None,
    ) -> Float[Tensor, "batch output"]:
        """Logits by the definition. Wide products run in the dtype of `hidden`, sums in fp32."""
        values, pool = self._values(hidden, scale), self.token_pool()
        return self.over_layers(pool.pooled(pool.summarise(*self.split(values), mask)))

    def prefix_votes(
        self,
        hidden: Float[Tensor, "layer batch token dim"],
        mask: Bool[Tensor, "batch token"],
        ends: Sequence[int],
        scale: Float[Tensor, "layer batch token"] | None = None,
    ) -> Float[Tensor, "member batch prefix output"]:
        """See `Network.prefix_votes`."""
        values, pool = self._values(hidden, scale), self.token_pool()

        def summarise(chunk: slice) -> State:
            return pool.summarise(*self.split(values[:, :, chunk]), mask[:, chunk])

        states = running(summarise, pool.merge, ends)
        return torch.stack([self.over_layers(pool.pooled(state)) for state in states], dim=1)[None]

    def _values(
        self, hidden: Tensor, scale: Tensor | None
    ) -> Float[Tensor, "layer batch token tap"]:
        """Tapped values that learn."""
        own, shared = self._columns()
        columns = torch.cat([own, shared.expand(len(hidden), -1, -1)], dim=2)
        return values_of(hidden, columns, scale_for(hidden, self.settings.normalise, scale))

    def token_pool(self) -> TokenPool:
        """Stage 1, with the weights as they are now."""
        settings = self.settings
        if settings.tokens == "attention":
            return Attention(self.slope if settings.slope else None)
        return Rolling(settings.window) if settings.tokens == "rolling" else Largest()

    def split(
        self, values: Float[Tensor, "layer batch token tap"]
    ) -> tuple[
        Float[Tensor, "layer batch token score"], Float[Tensor, "layer batch token head vote"]
    ]:
        """Tapped values as scores, and as the votes of each head."""
        heads = self.settings.num_heads
        scores = heads if self.settings.scored else 0
        return values[..., :scores], values[..., scores:].unflatten(-1, (heads, -1))

    def over_layers(
        self, pooled: Float[Tensor, "layer batch head vote"]
    ) -> Float[Tensor, "batch output"]:
        """Stage 2 and the sum over heads."""
        each = torch.einsum("lbhc,lh->bhc", pooled, self.layer_score.softmax(0))
        return each.sum(1) + self.bias

    def _columns(self) -> tuple[Float[Tensor, "layer dim own"], Float[Tensor, "dim common"]]:
        """Scores of each layer's own, and votes, whose columns all layers share."""
        none = self.weight.new_zeros(self.shape.num_layers, self.shape.dim, 0)
        return self.token_score if self.settings.scored else none, self.weight[0].flatten(1)

    def tap(self) -> Tap:
        """Scores of each layer's own; votes, shared by all layers."""
        own, shared = self._columns()
        return Tap(own.detach(), shared.detach(), self.settings.normalise)

    @property
    def fold_key(self) -> tuple[object, ...]:
        """Every voting probe folds alone."""
        return (id(self),)


class VoteFold(Fold):
    """The fold of the tokens' pool, then the layers."""

    def __init__(self, networks: Sequence[Vote]) -> None:
        super().__init__(networks)
        (self.network,) = networks
        with torch.no_grad():
            self.pool = self.network.token_pool()

    @torch.no_grad()
    def summarise(
        self, values: Float[Tensor, "layer batch token tap"], mask: Bool[Tensor, "batch token"]
    ) -> State:
        """Of one chunk, what the pool keeps."""
        return self.pool.summarise(*self.network.split(values.float()), mask)

    @torch.no_grad()
    def merge(self, first: State, second: State) -> State:
        """Of both chunks."""
        return self.pool.merge(first, second)

    @torch.no_grad()
    def finish(self, state: State) -> Float[Tensor, "batch output"]:
        """What was pooled, over layers, summed over heads. An empty row gives the bias."""
        return self.network.over_layers(self.pool.pooled(state))


Vote.fold_class = VoteFold
