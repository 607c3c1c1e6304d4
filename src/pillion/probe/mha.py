"""Downcast multi-head attention over tokens in each layer, then over layers.

The paper's strongest instance (arXiv 2601.13288, sec. 3): queries, keys and values of width d',
heads, scaled dot products, back to d, mean. All layers run as one batched attention call.
`causal` lets a token attend to itself and what came before it only, so that a new token costs one
row. Knows neither engines nor files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from pillion.core import Shape
from pillion.errors import ConfigError
from pillion.probe.network import Fold, Network, NetworkSettings, State, Tap, scale_for, values_of
from pillion.probe.tensors import Hidden, Logits, Mask, Scale, Values


class MhaSettings(NetworkSettings):
    """Settings of a downcast attention.

    Attributes:
        width: d', of queries, keys and values.
        num_heads: attention heads; divides `width`.
        normalise: RMS-normalise every token's state first (the paper does not say).
        causal: attend to the past only; what the name of the probe says, not free to choose.
        dropout: share of pooled components dropped in training.
    """

    width: int = Field(default=32, ge=1)
    num_heads: int = Field(default=8, ge=1)
    normalise: bool = True
    causal: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> MhaSettings:
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}")
        return self


class Mha(Network):
    """Downcast attention in both stages: `v[l] = mean_t W_O[l] SDPA(Q, K, V)[t]`, again over l.

    Raises:
        ConfigError: for causal settings without `CausalMha`, or the other way round.
    """

    streamable = False
    additive = True  # attention weights given, all that follows is linear

    def __init__(self, shape: Shape, settings: MhaSettings) -> None:
        super().__init__()
        # The causal fold never looks at a token again: with other settings it would be wrong.
        if settings.causal != self.streamable:
            raise ConfigError(
                f"Got causal={settings.causal} for {type(self).__name__}: probe 'mha' is never "
                "causal, 'mha-causal' always; choose by name."
            )
        self.shape, self.settings = shape, settings
        layers, dim, width = shape.num_layers, shape.dim, settings.width
        self.token_qkv = nn.Parameter(torch.randn(layers, dim, 3 * width) * dim**-0.5)
        self.token_out = nn.Parameter(torch.randn(layers, width, dim) * width**-0.5)
        self.layer_qkv = nn.Parameter(torch.randn(dim, 3 * width) * dim**-0.5)
        self.layer_out = nn.Parameter(torch.randn(width, dim) * width**-0.5)
        self.weight = nn.Parameter(torch.randn(dim, shape.num_outputs) * 0.02)
        self.bias = nn.Parameter(torch.zeros(shape.num_outputs))

    def forward(self, hidden: Hidden, mask: Mask, scale: Scale | None = None) -> Logits:
        """Logits by the definition. Wide products run in the dtype of `hidden`, sums in fp32."""
        scale = scale_for(hidden, self.settings.normalise, scale)
        qkv = values_of(hidden, self.token_qkv, scale)
        return self.read_out(self.attend_tokens(qkv, mask), mask)

    def attend_tokens(
        self, qkv: Values, mask: Mask, num_queries: int | None = None
    ) -> Float[Tensor, "layer batch query width"]:
        """What tokens (the last `num_queries`, or all) gather from tokens in each layer."""
        return attend(qkv, mask, self.settings.num_heads, self.settings.causal, num_queries)

    def read_out(self, attended: Float[Tensor, "layer batch token width"], mask: Mask) -> Logits:
        """From attended tokens to logits."""
        share = mask.float() / mask.sum(1, keepdim=True).clamp(min=1)
        return self.from_pooled(torch.einsum("lbtw,bt->lbw", attended, share))

    def from_pooled(self, pooled: Float[Tensor, "layer batch width"]) -> Logits:
        """From means of attended tokens to logits: attention of the layers to each other, the head.

        The mean commutes with the output projection, which is applied once a layer.
        """
        vectors = torch.einsum("lbw,lwd->lbd", pooled, self.token_out)
        vectors = F.dropout(vectors, self.settings.dropout, self.training)
        qkv = (vectors @ self.layer_qkv).transpose(0, 1)[None]
        every = torch.ones(qkv.shape[1:3], dtype=torch.bool, device=qkv.device)
        mixed = attend(qkv, every, self.settings.num_heads, causal=False)[0]
        return mixed.mean(1) @ self.layer_out @ self.weight + self.bias

    def tap(self) -> Tap:
        """Queries, keys and values of each layer."""
        none = self.token_qkv.detach().new_zeros(self.shape.dim, 0)
        return Tap(self.token_qkv.detach(), none, self.settings.normalise)

    @torch.no_grad()
    def contributions(
        self, values: Values, mask: Mask
    ) -> Float[Tensor, "layer batch token output"]:
        """A token's values times the attention it gets, through both projections to the classes."""
        heads, causal = self.settings.num_heads, self.settings.causal
        received: list[Tensor] = []  # a layer at a time: attention is token x token
        for qkv in values.float().masked_fill(~mask[None, :, :, None], 0.0):
            got = attention_received(qkv, mask, heads, causal)
            value = qkv.chunk(3, dim=-1)[2].unflatten(-1, (heads, -1))
            received.append((value * got[..., None]).flatten(-2))
        pooled = torch.stack([r.sum(1) for r in received])
        over = (torch.einsum("lbw,lwd->lbd", pooled, self.token_out) @ self.layer_qkv).transpose(
            0, 1
        )
        every = torch.ones(over.shape[:2], dtype=torch.bool, device=over.device)
        by_layer = attention_received(over, every, heads, causal=False)  # [batch, layer, head]
        to_class = (self.layer_out @ self.weight).unflatten(0, (heads, -1))
        value_of_layer = self.layer_qkv.chunk(3, dim=-1)[2].unflatten(-1, (heads, -1))
        each: list[Tensor] = []
        for layer, value in enumerate(received):
            wide = torch.einsum("dhv,hvc->hdc", value_of_layer, to_class)
            head = torch.einsum("wd,hdc->hwc", self.token_out[layer], wide)
            mixed = torch.einsum("bh,hwc->bwc", by_layer[:, layer], head)
            each.append(torch.einsum("btw,bwc->btc", value, mixed))
        return torch.stack(each)


class CausalMha(Mha):
    """Downcast attention to the past only: the incremental variant, for streams."""

    streamable = True


class MhaFold(Fold):
    """Keeps queries, keys and values; attends when asked.

    A later token changes what earlier ones attend to, so nothing narrower is exact.
    """

    network: Mha

    def summarise(self, values: Values, mask: Mask) -> State:
        """The chunk's values and which of them are tokens."""
        seen = mask[None].expand(values.shape[0], -1, -1)
        return {"qkv": values.float().masked_fill(~seen[..., None], 0.0), "seen": seen}

    def merge(self, first: State, second: State) -> State:
        """One after the other."""
        return {name: torch.cat([first[name], second[name]], dim=2) for name in first}

    @torch.no_grad()
    def finish(self, state: State) -> Logits:
        """Attention of everything kept, then the read-out."""
        mask = state["seen"][0]
        return self.network.read_out(self.network.attend_tokens(state["qkv"], mask), mask)


class CausalMhaFold(Fold):
    """Keeps queries, keys and values, and the sum of what was attended so far.

    `merge` attends only the second chunk's queries, now that they see the first chunk's keys.
    """

    network: CausalMha

    def summarise(self, values: Values, mask: Mask) -> State:
        """The chunk's values, which of them are tokens, and the sum of what they attended to."""
        seen = mask[None].expand(values.shape[0], -1, -1)
        qkv = values.float().masked_fill(~seen[..., None], 0.0)
        return {"qkv": qkv, "seen": seen, "sum": self._sum(qkv, mask, mask.shape[1])}

    def _sum(self, qkv: Values, mask: Mask, num_queries: int) -> Float[Tensor, "layer batch width"]:
        attended = self.network.attend_tokens(qkv, mask, num_queries)
        return torch.einsum("lbtw,bt->lbw", attended, mask[:, -num_queries:].float())

    def merge(self, first: State, second: State) -> State:
        """One after the other; the second's tokens attend again, now to the first's as well."""
        both = {n: torch.cat([first[n], second[n]], dim=2) for n in ("qkv", "seen")}
        late = self._sum(both["qkv"], both["seen"][0], second["seen"].shape[2])
        return both | {"sum": first["sum"] + late}

    @torch.no_grad()
    def finish(self, state: State) -> Logits:
        """Mean of what was attended, then the read-out."""
        count = state["seen"].sum(2, keepdim=True).clamp(min=1)
        return self.network.from_pooled(state["sum"] / count)


Mha.fold_class, CausalMha.fold_class = MhaFold, CausalMhaFold


def attend(
    qkv: Values, mask: Mask, num_heads: int, causal: bool, num_queries: int | None = None
) -> Float[Tensor, "layer batch query width"]:
    """Scaled dot-product attention in every layer at once; masked keys get no weight.

    Args:
        qkv: queries, keys and values side by side, each as wide as the others.
        mask: which positions hold a token.
        num_heads: attention heads, side by side in each of the three.
        causal: whether a position attends to itself and the ones before it only.
        num_queries: attend from the last so many positions only; None: from all.
    """
    layers, batch, tokens, columns = qkv.shape
    query_tokens = tokens if num_queries is None else num_queries
    parts = qkv.reshape(layers * batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    # An empty row may attend anywhere: it stays finite, and no read-out counts it.
    allowed = (mask | ~mask.any(1, keepdim=True))[:, None, None, :]
    if causal:
        past = torch.ones(query_tokens, tokens, dtype=torch.bool, device=mask.device)
        past = past.tril(tokens - query_tokens)
        # A padding query that sees nothing would be NaN; it may look at itself.
        allowed = (allowed & past) | _itself(query_tokens, tokens, mask.device)
    allowed = allowed.expand(batch, 1, -1, -1).repeat(layers, 1, 1, 1)
    out = F.scaled_dot_product_attention(
        parts[0][:, :, tokens - query_tokens :], parts[1], parts[2], attn_mask=allowed
    )
    return out.transpose(1, 2).reshape(layers, batch, query_tokens, columns // 3)


def attention_received(
    qkv: Float[Tensor, "batch token tap"], mask: Mask, num_heads: int, causal: bool
) -> Float[Tensor, "batch token head"]:
    """How much attention each token gets, the mean over the tokens that pay it; as `attend` pays.

    Arguments are those of `attend`, in one layer.
    """
    query, key, _ = (part.unflatten(-1, (num_heads, -1)) for part in qkv.chunk(3, dim=-1))
    scores = torch.einsum("bqhw,bthw->bhqt", query, key) / query.shape[-1] ** 0.5
    allowed = mask[:, None, None, :]
    if causal:
        allowed = allowed & torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    paid = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num()
    share = mask.float() / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bhqt,bq->bth", paid, share)


def _itself(query_tokens: int, tokens: int, device: torch.device) -> Bool[Tensor, "query token"]:
    ids = torch.arange(tokens - query_tokens, tokens, device=device)
    return ids[:, None] == torch.arange(tokens, device=device)
