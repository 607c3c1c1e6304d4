"""Direct pooling: the mean over tokens, then a linear head of all layers together or of each.

The paper's cheapest instance (arXiv 2601.13288, sec. 3), and a linear model of all layers side by
side. Either is tapped to one column a class. Knows neither engines nor files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pillion.core import Shape
from pillion.probe.network import Fold, Network, NetworkSettings, State, Tap, scale_for
from pillion.probe.tensors import Hidden, Logits, Mask, Scale, Values


class PoolingSettings(NetworkSettings):
    """Settings of direct pooling.

    Attributes:
        by_layer: every layer has a head of its own, and what they say is added up.
        normalise: RMS-normalise every token's state first (no learned scale).
    """

    by_layer: bool = False
    normalise: bool = False


class Pooling(Network):
    """`logits = W mean_l mean_t x[l,t] + b`; by layer, `logits = sum_l W[l] mean_t x[l,t] + b`.

    x is a state, or a normalised one.
    """

    additive = True  # a mean of linear values

    settings: PoolingSettings

    def __init__(self, shape: Shape, settings: PoolingSettings) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings
        layers, dim, outputs = shape.num_layers, shape.dim, shape.num_outputs
        # Saved probes have the one head that there is as a dimension of a layer's weights.
        size = (layers, dim, 1, outputs) if settings.by_layer else (dim, outputs)
        scale = 0.02 / layers if settings.by_layer else 0.02
        self.weight = nn.Parameter(torch.randn(size) * scale)
        self.bias = nn.Parameter(torch.zeros(outputs))

    @property
    def head(self) -> Float[Tensor, "own dim output"]:
        """The weights of each layer, or of all layers together."""
        return self.weight.view(-1, self.shape.dim, self.shape.num_outputs)

    def forward(self, hidden: Hidden, mask: Mask, scale: Scale | None = None) -> Logits:
        """Logits by the definition; an empty row gives the bias."""
        share = mask.float() / mask.sum(1, keepdim=True).clamp(min=1)
        scale = scale_for(hidden, self.settings.normalise, scale)
        shares = share.expand(len(hidden), -1, -1) if scale is None else share * scale
        # A sum over tokens as a product: masked states are multiplied by zero, accumulated in fp32.
        means = [
            torch.einsum("btd,bt->bd", states.float(), one)
            for states, one in zip(hidden, shares, strict=True)
        ]
        return self.over_layers(torch.stack(means) @ self.head) + self.bias

    def over_layers(self, votes: Float[Tensor, "layer batch output"]) -> Logits:
        """Added up where each layer has a head, else their mean."""
        return votes.sum(0) if self.settings.by_layer else votes.mean(0)

    def tap(self) -> Tap:
        """One column a class: a head commutes with the mean."""
        layers, dim, head = self.shape.num_layers, self.shape.dim, self.head.detach()
        none = head.new_zeros(layers, dim, 0)
        own, shared = (head, none[0]) if self.settings.by_layer else (none, head[0])
        return Tap(own, shared, self.settings.normalise)

    def contributions(
        self, values: Values, mask: Mask
    ) -> Float[Tensor, "layer batch token output"]:
        """`W x[l,t]`, divided by the number of tokens, and of layers that share a head."""
        sharing = 1 if self.settings.by_layer else len(values)
        share = mask.float() / (mask.sum(1, keepdim=True).clamp(min=1) * sharing)
        return values.float().masked_fill(~mask[None, :, :, None], 0.0) * share[..., None]

    @property
    def fold_key(self) -> tuple[object, ...]:
        """Poolings of the same settings share a fold."""
        return (type(self), self.settings)


class PoolingFold(Fold):
    """Sum and count of class values."""

    def __init__(self, networks: Sequence[Pooling]) -> None:
        super().__init__(networks)
        self.over_layers = networks[0].over_layers
        self.bias = torch.cat([n.bias.detach().float() for n in networks])

    def summarise(self, values: Values, mask: Mask) -> State:
        """Sum and count of one chunk."""
        seen = mask[None, :, :, None]
        count = mask.sum(1).float()[None, :, None].expand(values.shape[0], -1, 1)
        total = values.masked_fill(~seen, 0.0).sum(2, dtype=torch.float32)
        return {"sum": total, "count": count}

    def merge(self, first: State, second: State) -> State:
        """Adds the sums and counts of both."""
        return {name: first[name] + second[name] for name in first}

    def finish(self, state: State) -> Logits:
        """Mean over tokens, then the layers; an empty row gives the bias."""
        return self.over_layers(state["sum"] / state["count"].clamp(min=1)) + self.bias


Pooling.fold_class = PoolingFold
