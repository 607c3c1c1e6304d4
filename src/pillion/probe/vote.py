"""Probes whose every token votes for the classes; votes are pooled over tokens, then over layers.

Two choices, one a stage: how the tokens of a layer become one vote (`tokens`), and how the layers
do (`over_layers`). The well-known single-layer probes are combinations: EleutherAI's attention
probe, MultiMax and rolling means (arXiv 2601.11516), last token, all layers concatenated. A vote
is linear in the state, so each of them taps to a few numbers a token. Knows neither engines nor
files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    hide_tokens,
    inverse_rms_by_layer,
    running,
)
from pillion.probe.rolling import Rolling
from pillion.probe.token_pools import TOKEN_POOLS, Attention, TokenPool


class VoteSettings(Settings):
    """Settings of a voting probe.

    Attributes:
        tokens: how the tokens of a layer become one vote: `mean`, `first`, `last`, `max` (the
            largest a class), `attention` (softmax-weighted mean), `rolling` (the largest mean of
            `window` tokens in a row, weighted by attention).
        over_layers: how layers become one: `static` (softmax of learned weights), `gate` (softmax
            of a score that is pooled beside the votes), `max` (the largest a class), `concat` (each
            layer votes by a matrix of its own, and votes are added up).
        num_heads: H; each head has its own scores, votes and layer weights. Heads are added up.
        normalise: RMS-normalise every token's state first (no learned scale).
        slope: scores of `attention` rise or fall along the text, each head at a rate of its own.
        window: w of `rolling`, in tokens.
        prune: how `concat` loses layers in training: `group` takes a layer out as a whole
            (Group-Lasso), `l1` weight by weight; what is left at zero is not read any more.
        penalty: its strength: a layer (or weight) stays whose gradients are typically larger.
        token_dropout: share of tokens hidden in training.
    """

    tokens: Literal["mean", "first", "last", "max", "attention", "rolling"] = "attention"
    over_layers: Literal["static", "gate", "max", "concat"] = "static"
    num_heads: int = Field(default=8, ge=1)
    normalise: bool = True
    slope: bool = False
    window: int = Field(default=10, ge=2)
    prune: Literal["none", "group", "l1"] = "none"
    penalty: float = Field(default=0.01, ge=0)
    token_dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> VoteSettings:
        if self.slope and self.tokens != "attention":
            raise ValueError(f"slope is for tokens='attention', not for {self.tokens!r}")
        if self.prune != "none" and self.over_layers != "concat":
            raise ValueError(
                f"prune={self.prune!r} is for over_layers='concat', not for {self.over_layers!r}"
            )
        return self


class Vote(Network):
    """`logits = sum_h layers_l(tokens_t(W[h] x[l,t])) + bias`, with x a (normalised) state.

    `layers` and `tokens` are what the settings say. Scores, slopes and layer weights begin at zero,
    so that every probe begins as a plain mean of its tokens or windows.
    """

    settings: VoteSettings

    def __init__(self, shape: Shape, settings: VoteSettings) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings
        layers, dim, heads = shape.num_layers, shape.dim, settings.num_heads
        own = layers if settings.over_layers == "concat" else 1
        weight = torch.randn(own, dim, heads, shape.num_outputs) * 0.02 / (own * heads)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(shape.num_outputs))
        if settings.tokens in ("attention", "rolling"):
            self.token_score = nn.Parameter(torch.zeros(layers, dim, heads))
        if settings.slope:
            self.slope = nn.Parameter(torch.zeros(heads))
        if settings.over_layers == "static":
            self.layer_score = nn.Parameter(torch.zeros(layers, heads))
        elif settings.over_layers == "gate":
            self.layer_score = nn.Parameter(torch.randn(dim, heads) * 0.02)

    def forward(
        self,
        hidden: Float[Tensor, "layer batch token dim"],
        mask: Bool[Tensor, "batch token"],
        scale: Float[Tensor, "layer batch token"] | None = None,
    ) -> Float[Tensor, "batch output"]:
        """Logits by the definition. Wide products run in the dtype of `hidden`, sums in fp32."""
        values, mask = self._values(hidden, mask, scale)
        pool = self.token_pool()
        return self.over_layers(pool.pooled(pool.summarise(*self.split(values), mask)))

    def prefix_votes(
        self,
        hidden: Float[Tensor, "layer batch token dim"],
        mask: Bool[Tensor, "batch token"],
        ends: Sequence[int],
        scale: Float[Tensor, "layer batch token"] | None = None,
    ) -> Float[Tensor, "member batch prefix output"]:
        """See `Network.prefix_votes`."""
        values, mask = self._values(hidden, mask, scale)
        pool = self.token_pool()

        def summarise(chunk: slice) -> State:
            return pool.summarise(*self.split(values[:, :, chunk]), mask[:, chunk])

        states = running(summarise, pool.merge, ends)
        return torch.stack([self.over_layers(pool.pooled(state)) for state in states], dim=1)[None]

    def _values(
        self, hidden: Tensor, mask: Tensor, scale: Tensor | None
    ) -> tuple[Float[Tensor, "layer batch token tap"], Bool[Tensor, "batch token"]]:
        """Tapped values that learn, and which tokens count."""
        layers, batch, tokens, dim = hidden.shape
        own, shared = self._columns()
        columns = torch.cat([own, shared.expand(layers, -1, -1)], dim=2).to(hidden.dtype)
        values = torch.bmm(hidden.reshape(layers, -1, dim), columns).float()
        values = values.view(layers, batch, tokens, -1)
        if self.settings.normalise:
            scale = inverse_rms_by_layer(hidden) if scale is None else scale
            values = values * scale[..., None]
        if self.training:
            mask = hide_tokens(mask, self.settings.token_dropout)
        return values, mask

    def token_pool(self) -> TokenPool:
        """Stage 1, with the weights as they are now."""
        settings = self.settings
        if settings.tokens == "attention":
            return Attention(self.slope if settings.slope else None)
        if settings.tokens == "rolling":
            return Rolling(settings.window)
        return TOKEN_POOLS[settings.tokens]()

    def split(
        self, values: Float[Tensor, "layer batch token tap"]
    ) -> tuple[
        Float[Tensor, "layer batch token score"], Float[Tensor, "layer batch token head vote"]
    ]:
        """Tapped values as scores, and as the votes of each head (its layer score in front)."""
        heads = self.settings.num_heads
        scores = heads if self.settings.tokens in ("attention", "rolling") else 0
        return values[..., :scores], values[..., scores:].unflatten(-1, (heads, -1))

    def over_layers(
        self, pooled: Float[Tensor, "layer batch head vote"]
    ) -> Float[Tensor, "batch output"]:
        """Stage 2 and the sum over heads."""
        match self.settings.over_layers:
            case "static":
                each = torch.einsum("lbhc,lh->bhc", pooled, self.layer_score.softmax(0))
            case "gate":
                each = (pooled[..., :1].softmax(0) * pooled[..., 1:]).sum(0)
            case "max":
                each = pooled.amax(0)
            case "concat":
                each = pooled.sum(0)
        return each.sum(1) + self.bias

    def _columns(self) -> tuple[Float[Tensor, "layer dim own"], Float[Tensor, "dim common"]]:
        """Columns of each layer's own, and those that all layers share."""
        layers, dim = self.shape.num_layers, self.shape.dim
        none = self.weight.new_zeros(layers, dim, 0)
        own = self.token_score if self.settings.tokens in ("attention", "rolling") else none
        if self.settings.over_layers == "concat":
            return torch.cat([own, self.weight.flatten(2)], dim=2), none[0]
        votes = self.weight[0]
        if self.settings.over_layers == "gate":
            votes = torch.cat([self.layer_score[..., None], votes], dim=2)
        return own, votes.flatten(1)

    def tap(self) -> Tap:
        """Scores of each layer's own; votes, shared by all layers unless they are concatenated."""
        own, shared = self._columns()
        return Tap(own.detach(), shared.detach(), self.settings.normalise)

    @property
    def fold_key(self) -> tuple[object, ...]:
        """Every voting probe folds alone."""
        return (id(self),)

    @torch.no_grad()
    def shrink(self, step_of: Callable[[nn.Parameter], Tensor]) -> None:
        """The proximal step of `penalty sum_l sqrt(n) |W[l]|` or of `penalty |W|_1`.

        In the optimiser's own metric (ProxGen, arXiv 2006.07484), for under AdamW noise moves a
        weight as far as signal does. A layer (of n weights) is shrunk by its mean step. At least
        the strongest layer stays.
        """
        if self.settings.prune == "none":
            return
        layers, limit = self.weight.flatten(1), self.settings.penalty * step_of(self.weight)
        if self.settings.prune == "l1":
            shrunk = layers.sign() * (layers.abs() - limit.flatten(1)).clamp(min=0)
        else:
            size = layers.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            # The harmonic mean: weights that hardly feel the loss must not decide for the layer.
            limit = layers.shape[1] ** 0.5 / limit.flatten(1).reciprocal().mean(1, keepdim=True)
            shrunk = layers * (1 - limit / size).clamp(min=0)
        if not shrunk.any():
            strongest = layers.norm(dim=1).argmax()
            shrunk[strongest] = layers[strongest]
        self.weight.copy_(shrunk.view_as(self.weight))

    def pruned(self) -> tuple[Vote, tuple[int, ...]]:
        """This probe on the layers that it did not lose, and which they are."""
        if self.settings.prune == "none":
            return self, tuple(range(self.shape.num_layers))
        kept = self.weight.detach().flatten(1).any(1).nonzero()[:, 0]
        small = Vote(Shape(len(kept), self.shape.dim, self.shape.num_outputs), self.settings).to(
            self.weight.device
        )
        own = self.state_dict()
        for name in ("weight", "token_score"):
            if name in own:
                own[name] = own[name][kept]
        small.load_state_dict(own)
        return small.train(self.training), tuple(kept.tolist())


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
