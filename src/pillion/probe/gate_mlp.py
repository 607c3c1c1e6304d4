"""Gates that feed a small perceptron: the widest probe that still taps to a few values a token.

Each layer projects its states to a few values and weighs its tokens by many scores; the means go
through fixed layer weights, a GELU and a linear head. Pooling is linear, so the projection, the
perceptron's first layer, runs before it, in the tap. Knows neither engines nor files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pillion.core import Shape
from pillion.probe import softmax
from pillion.probe.folded import Folded
from pillion.probe.network import NetworkSettings, State
from pillion.probe.tensors import Logits, Mask, Values


class GateMlpSettings(NetworkSettings):
    """Settings of gates that feed a perceptron.

    Attributes:
        num_heads: H, score vectors a layer; each head has its own layer weights.
        width: m, values a token and layer, which all heads share.
        normalise: RMS-normalise every token's state first (no learned scale).
        dropout: share of the perceptron's H m hidden units dropped in training.
    """

    num_heads: int = Field(default=16, ge=1)
    width: int = Field(default=64, ge=1)
    normalise: bool = True
    dropout: float = Field(default=0.2, ge=0, lt=1)


class GateMlp(Folded):
    """Token scores and values of each layer, layer weights that are learned, a perceptron.

    With x a (normalised) state, per head h: `a_t = softmax_t(w[l,h] . x[l,t])`,
    `v[l,h] = sum_t a_t P[l] x[l,t]`, `z[h] = sum_l softmax_l(g[l,h]) v[l,h]`, and
    `logits = W gelu(z) + bias`. The layer weights do not depend on the text.
    """

    def __init__(self, shape: Shape, settings: GateMlpSettings) -> None:
        super().__init__()
        self.shape, self.settings, self.normalise = shape, settings, settings.normalise
        layers, dim, heads, width = (
            shape.num_layers,
            shape.dim,
            settings.num_heads,
            settings.width,
        )
        self.token_score = nn.Parameter(torch.randn(layers, dim, heads) * 0.02)
        self.value = nn.Parameter(torch.randn(layers, dim, width) * dim**-0.5)
        self.layer_score = nn.Parameter(torch.zeros(layers, heads))
        size = heads * width
        self.weight = nn.Parameter(torch.randn(size, shape.num_outputs) * size**-0.5)
        self.bias = nn.Parameter(torch.zeros(shape.num_outputs))

    def columns(self) -> tuple[Float[Tensor, "layer dim own"], Float[Tensor, "dim common"]]:
        """Scores and values, of each layer's own."""
        own = torch.cat([self.token_score, self.value], dim=2)
        return own, own.new_zeros(self.shape.dim, 0)

    def summarise(self, values: Values, mask: Mask) -> State:
        """Maximum and denominator a head, weighted sum a head and value."""
        scores, content = values.split([self.settings.num_heads, self.settings.width], dim=-1)
        return softmax.summarise(scores, content, mask)

    def merge(self, first: State, second: State) -> State:
        """The softmax of both."""
        return softmax.merge(first, second)

    def finish(self, state: State) -> Logits:
        """Logits: token means, then layer weights, then the perceptron."""
        mixed = torch.einsum("lbhw,lh->bhw", softmax.mean(state), self.layer_score.softmax(0))
        units = F.dropout(F.gelu(mixed.flatten(1)), self.settings.dropout, self.training)
        return units @ self.weight + self.bias
