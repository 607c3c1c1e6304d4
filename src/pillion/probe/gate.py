"""Gates: softmax-weighted means of tokens within each layer, then of layers.

The paper's scoring attention gate (arXiv 2601.13288, sec. 3) is `tanh=True, normalise=False,
num_heads=1`; the improved gate RMS-normalises states, drops the tanh (which caps how far two
weights can differ) and has several heads. Several gates can be members of one: each learns from its
own loss, and together they say the mean of their logits. Knows neither engines nor files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from pillion.core import Shape
from pillion.probe import softmax
from pillion.probe.network import (
    Fold,
    Network,
    NetworkSettings,
    State,
    Tap,
    running,
    scale_for,
    values_of,
)
from pillion.probe.softmax import FLOOR
from pillion.probe.tensors import Hidden, Logits, Mask, Scale, Scores, Values


class GateSettings(NetworkSettings):
    """Settings of a gate.

    Attributes:
        num_heads: K, score vectors a layer; each head has its own layer weights and classes.
        members: gates of so many heads, trained side by side; the logits are the mean of theirs.
        tanh: bound scores to [-1, 1] as the paper does.
        normalise: RMS-normalise every token's state first (no learned scale).
    """

    num_heads: int = Field(default=8, ge=1)
    members: int = Field(default=1, ge=1)
    tanh: bool = False
    normalise: bool = True


class Gate(Network):
    """Scores each token, takes the softmax-weighted mean, scores each layer, does it again.

    With x a (normalised) state, per head k: `a_t = softmax_t(w[l,k] . x[l,t])`,
    `v[l] = sum_t a_t x[l,t]`, `b_l = softmax_l(u[k] . v[l])`, `z[k] = sum_l b_l v[l]`, and
    `logits = sum_k W[k] z[k] + bias` (METHODS: Lin 2026, eq. of the gate; K heads are ours). M
    members have K heads each, and the logits are the mean of their M sums.
    """

    depths = True
    additive = True  # weighted means of tokens, then of layers, then a linear head

    def __init__(self, shape: Shape, settings: GateSettings) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings
        heads = self.num_heads
        self.token_score = nn.Parameter(torch.randn(shape.num_layers, shape.dim, heads) * 0.02)
        self.layer_score = nn.Parameter(torch.randn(heads, shape.dim) * 0.02)
        each = 0.02 / settings.num_heads
        self.weight = nn.Parameter(torch.randn(heads, shape.dim, shape.num_outputs) * each)
        self.bias = nn.Parameter(torch.zeros(shape.num_outputs))

    @property
    def num_heads(self) -> int:
        """Heads of all members together."""
        return self.settings.num_heads * self.settings.members

    def _bound(self, scores: Tensor) -> Tensor:
        return scores.tanh() if self.settings.tanh else scores

    def forward(self, hidden: Hidden, mask: Mask, scale: Scale | None = None) -> Logits:
        """Logits by the definition. Wide products run in the dtype of `hidden`, sums in fp32."""
        return self.votes(hidden, mask, scale).mean(0)

    def votes(
        self, hidden: Hidden, mask: Mask, scale: Scale | None = None
    ) -> Float[Tensor, "member batch output"]:
        """The logits of each member; see `Network.votes`.

        A layer's score is linear in its tokens', so two columns a head give the weights of both
        stages, and their product pools the states of a text once, over tokens and layers.
        """
        scale = scale_for(hidden, self.settings.normalise, scale)
        scores = self._read(hidden, self.layer_score.T, scale)
        weights, by_layer = self._weights(scores, mask)
        weights = weights * by_layer[:, :, None]
        if scale is not None:
            weights = weights * scale[..., None]
        members, outputs = self.settings.members, self.shape.num_outputs
        pooled = self._pool(weights, hidden).view(hidden.shape[1], members, -1).transpose(0, 1)
        return pooled @ self.weight.view(members, -1, outputs) + self.bias

    def prefix_votes(
        self, hidden: Hidden, mask: Mask, ends: Sequence[int], scale: Scale | None = None
    ) -> Float[Tensor, "member batch prefix output"]:
        """See `Network.prefix_votes`: the classes are read of every token, as the tap does."""
        scores, content = self._by_token(hidden, scale)

        def summarise(chunk: slice) -> State:
            return softmax.summarise(scores[:, :, chunk], content[:, :, chunk], mask[:, chunk])

        states = running(summarise, softmax.merge, ends)
        return torch.stack([self._read_out(softmax.mean(state)) for state in states], dim=2)

    def depth_votes(
        self, hidden: Hidden, mask: Mask, depths: Sequence[int], scale: Scale | None = None
    ) -> Float[Tensor, "member batch depth output"]:
        """See `Network.depth_votes`: the layers' softmax is over the first ones."""
        pooled = softmax.mean(softmax.summarise(*self._by_token(hidden, scale), mask))
        return torch.stack([self._read_out(pooled[:depth]) for depth in depths], dim=2)

    def _by_token(
        self,
        hidden: Float[Tensor, "layer batch token dim"],
        scale: Float[Tensor, "layer batch token"] | None,
    ) -> tuple[Scores, Float[Tensor, "layer batch token head content"]]:
        """Of each token and head: its score; layer score and classes."""
        heads = self.num_heads
        classes = self.weight.permute(1, 0, 2).flatten(1)
        scale = scale_for(hidden, self.settings.normalise, scale)
        values = self._read(hidden, torch.cat([self.layer_score.T, classes], dim=1), scale)
        own, of_layers, of_classes = values.split([heads, heads, classes.shape[1]], dim=-1)
        content = torch.cat([of_layers[..., None], of_classes.unflatten(-1, (heads, -1))], dim=-1)
        return self._bound(own), content

    def _read_out(
        self, pooled: Float[Tensor, "layer batch head content"]
    ) -> Float[Tensor, "member batch output"]:
        """From each head's layer score and classes, pooled over tokens, to logits."""
        by_layer = self._bound(pooled[..., :1]).softmax(0)
        each = (by_layer * pooled[..., 1:]).sum(0)
        return each.unflatten(1, (self.settings.members, -1)).sum(2).transpose(0, 1) + self.bias

    def _read(
        self, hidden: Tensor, shared: Float[Tensor, "dim common"], scale: Tensor | None
    ) -> Float[Tensor, "layer batch token column"]:
        """Token scores of the layer's own, and columns that all layers share."""
        columns = torch.cat([self.token_score, shared.expand(len(hidden), -1, -1)], dim=2)
        return values_of(hidden, columns, scale)

    @staticmethod
    def _pool(weights: Scores, hidden: Hidden) -> Float[Tensor, "batch head dim"]:
        """The weighted sum of states, a layer at a time: all at once would copy them."""
        weights = weights.transpose(2, 3).to(hidden.dtype)
        pooled = (weights[0] @ hidden[0]).float()
        for one, states in zip(weights[1:], hidden[1:], strict=True):
            pooled = pooled + (one @ states).float()
        return pooled

    def _weights(
        self, scores: Float[Tensor, "layer batch token column"], mask: Mask
    ) -> tuple[Scores, Float[Tensor, "layer batch head"]]:
        """Of tokens and of layers, from every head's token scores and then its layer scores."""
        scores = scores.masked_fill(~mask[None, :, :, None], 0.0)
        own, of_layers = scores.chunk(2, dim=-1)
        weights = self._token_weights(self._bound(own), mask)
        return weights, self._bound((weights * of_layers).sum(2)).softmax(0)

    def _token_weights(self, scores: Scores, mask: Mask) -> Scores:
        seen = mask[None, :, :, None]
        scores = scores.masked_fill(~seen, FLOOR)
        return scores.softmax(2) * seen

    def tap(self) -> Tap:
        """Score columns of each layer's own; layer scores and classes shared by all layers."""
        classes = self.weight.detach().permute(1, 0, 2).reshape(self.shape.dim, -1)
        classes = classes / self.settings.members
        shared = torch.cat([self.layer_score.detach().T, classes], dim=1)
        return Tap(self.token_score.detach(), shared, self.settings.normalise)

    @torch.no_grad()
    def contributions(
        self, values: Values, mask: Mask
    ) -> Float[Tensor, "layer batch token output"]:
        """`sum_k b[k,l] a[k,l,t] (W[k] x[l,t])`, of token weights a and layer weights b."""
        heads = self.num_heads
        values = values.float().masked_fill(~mask[None, :, :, None], 0.0)
        weights, by_layer = self._weights(values[..., : 2 * heads], mask)
        weights = weights * by_layer[:, :, None]
        classes = values[..., 2 * heads :].unflatten(-1, (heads, -1))
        each = [torch.einsum("btk,btkc->btc", w, c) for w, c in zip(weights, classes, strict=True)]
        return torch.stack(each)

    @torch.no_grad()
    def attention(
        self, values: Values, mask: Mask
    ) -> tuple[Scores, Float[Tensor, "layer batch head"]]:
        """How much each head counts each token within its layer, and each layer in each row."""
        return self._weights(values[..., : 2 * self.num_heads].float(), mask)

    @property
    def fold_key(self) -> tuple[object, ...]:
        """Gates share a fold if their scores are bounded alike and their states read alike."""
        return (type(self), self.settings.tanh, self.settings.normalise)


class GateFold(Fold):
    """Softmax gates of any number of networks, heads and classes, as one fold.

    State of a layer: running maximum and denominator a head, weighted sum a content column. The
    layer score and the classes of a head are linear in its pooled state, so folding those columns
    with the head's weights is exact (METHODS 2.2).
    """

    def __init__(self, networks: Sequence[Gate]) -> None:
        super().__init__(networks)
        self.tanh = networks[0].settings.tanh
        device = networks[0].bias.device
        self.heads_of = [n.num_heads for n in networks]
        outputs = [n.shape.num_outputs for n in networks]
        self.num_heads = sum(self.heads_of)
        self.bias = torch.cat([n.bias.detach().float() for n in networks])
        head, score, gives = _layout(self.heads_of, outputs)
        self.head_of_column: Int[Tensor, " content"] = head.to(device)
        self.score_columns: Int[Tensor, " head"] = score.to(device)
        self.output_of_column: Float[Tensor, "content output"] = gives.to(device)
        # Column i's weighted sum sits at [head of i, i] of the product of all heads and columns.
        self.diagonal = self.head_of_column * len(head) + torch.arange(len(head), device=device)

    def summarise(self, values: Values, mask: Mask) -> State:
        """Maximum, denominator and weighted sums of one chunk."""
        if values.shape[2] == 1 and softmax.all_there(mask):
            return self.of_tokens(values[:, :, 0])
        top, weights, content = softmax.weigh(*self._split(values), mask)
        # One small product of all heads with all columns beats gathering a weight per column.
        product = weights.transpose(2, 3) @ content
        sums = product.flatten(2).index_select(2, self.diagonal)
        return {"max": top, "denominator": weights.sum(2), "sum": sums}

    def of_tokens(self, values: Float[Tensor, "layer batch tap"]) -> State:
        """A token's own scores and content, with a weight of 1."""
        scores, content = self._split(values)
        return {"max": scores, "denominator": torch.ones_like(scores), "sum": content}

    def _split(self, values: Float[Tensor, "*lead tap"]) -> tuple[Tensor, Tensor]:
        """Scores of tokens, bounded where the settings say so, and content."""
        values = values.float()
        scores, content = values[..., : self.num_heads], values[..., self.num_heads :]
        return scores.tanh() if self.tanh else scores, content

    def merge(self, first: State, second: State) -> State:
        """Rescales both to the larger maximum and adds."""
        return softmax.merge(first, second, self.head_of_column)

    def finish(self, state: State) -> Logits:
        """Divides, weighs layers, adds up heads. An empty row gives the bias."""
        mean = softmax.mean(state, self.head_of_column)
        scores = mean.index_select(2, self.score_columns)
        by_layer = (scores.tanh() if self.tanh else scores).softmax(0)
        mixed = (mean * by_layer.index_select(2, self.head_of_column)).sum(0)
        return mixed @ self.output_of_column + self.bias


Gate.fold_class = GateFold


def _layout(
    heads_of: Sequence[int], outputs: Sequence[int]
) -> tuple[Int[Tensor, " content"], Int[Tensor, " head"], Float[Tensor, "content output"]]:
    """Where each content column belongs: [layer scores | classes by head] for each network.

    Returns:
        The head of every column, the layer-score column of every head, and which output a column
        adds to (one-hot; a layer score adds to none).
    """
    head: list[int] = []
    score: list[int] = []
    target: list[int] = []
    first_head = first_output = 0
    for heads, labels in zip(heads_of, outputs, strict=True):
        ids = range(first_head, first_head + heads)
        score += range(len(head), len(head) + heads)
        head += [*ids, *(k for k in ids for _ in range(labels))]
        target += [-1] * heads + [*range(first_output, first_output + labels)] * heads
        first_head, first_output = first_head + heads, first_output + labels
    gives = torch.zeros(len(head), first_output)
    for column, output in enumerate(target):
        if output >= 0:
            gives[column, output] = 1.0
    return torch.tensor(head), torch.tensor(score), gives
