"""GLOT (arXiv 2603.03389): a graph of similar tokens, attention along its edges, softmax read-out.

A rival to compare with, not one to serve: an edge depends on two whole states, so there is no tap,
and every token on every other, so a stream pays for all of them again. Reads the last of the layers
it is given. Knows neither engines nor files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from pillion.core import Shape
from pillion.probe.network import Fold, Network, Settings, State, inverse_rms
from pillion.probe.softmax import FLOOR

LEAK = 0.2
"""Slope of the graph attention's leaky ReLU below zero."""


class GlotSettings(Settings):
    """Settings of a token graph.

    Attributes:
        similarity: cosine above which two tokens are joined.
        width: m, of a node; every block keeps it.
        num_blocks: graph attention layers.
        num_heads: attention heads of each; divides `width`.
        dropout: share of the pooled components dropped in training.
    """

    similarity: float = Field(default=0.6, ge=-1, le=1)
    width: int = Field(default=128, ge=1)
    num_blocks: int = Field(default=2, ge=1)
    num_heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> GlotSettings:
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}")
        return self


class Glot(Network):
    """Nodes `u0 = P x`, blocks `u(k+1) = relu(sum_j a_ij W u_j)` over neighbours j of i.

    `a_ij = softmax_j(leaky_relu(s . W u_i + t . W u_j))` (GAT); all blocks' outputs side by side
    (jumping knowledge) are u, and `logits = W' sum_i softmax_i(v . tanh(A u_i)) u_i + bias`. Two
    tokens are neighbours if the cosine of their states is above `similarity`; each is its own.
    Nodes start from RMS-normalised states. The attention is dense: memory grows with tokens^2.
    """

    tappable = False
    streamable = False

    def __init__(self, shape: Shape, settings: GlotSettings) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings
        dim, width, blocks, heads = (
            shape.dim,
            settings.width,
            settings.num_blocks,
            settings.num_heads,
        )
        self.node = nn.Parameter(torch.randn(dim, width) * dim**-0.5)
        self.block = nn.Parameter(torch.randn(blocks, width, width) * width**-0.5)
        self.edge = nn.Parameter(torch.randn(blocks, 2, heads, width // heads) * width**-0.5)
        size = (blocks + 1) * width
        self.score_in = nn.Parameter(torch.randn(size, width) * size**-0.5)
        self.score_out = nn.Parameter(torch.randn(width) * width**-0.5)
        self.weight = nn.Parameter(torch.randn(size, shape.num_outputs) * 0.02)
        self.bias = nn.Parameter(torch.zeros(shape.num_outputs))

    def forward(
        self,
        hidden: Float[Tensor, "layer batch token dim"],
        mask: Bool[Tensor, "batch token"],
        scale: Float[Tensor, "layer batch token"] | None = None,
    ) -> Float[Tensor, "batch output"]:
        """Logits by the definition, in fp32; an empty row gives the bias."""
        states = hidden[-1].float().masked_fill(~mask[..., None], 0.0)
        rms = inverse_rms(states) if scale is None else scale[-1]
        joined = self._joined(states, mask)
        nodes = [(states * rms[..., None]) @ self.node]
        for block, edge in zip(self.block, self.edge, strict=True):
            nodes.append(F.relu(self._attend(nodes[-1] @ block, edge, joined)))
        every = torch.cat(nodes, dim=-1)
        scores = torch.tanh(every @ self.score_in) @ self.score_out
        weights = scores.masked_fill(~mask, FLOOR).softmax(1) * mask
        pooled = torch.einsum("bt,btn->bn", weights, every)
        return F.dropout(pooled, self.settings.dropout, self.training) @ self.weight + self.bias

    def _joined(
        self, states: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Bool[Tensor, "batch token token"]:
        """Which tokens are neighbours; everyone, padding too, is its own."""
        directions = F.normalize(states, dim=-1)
        near = directions @ directions.mT > self.settings.similarity
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        return (near & mask[:, None, :]) | itself

    def _attend(
        self,
        nodes: Float[Tensor, "batch token width"],
        edge: Float[Tensor, "end head part"],
        joined: Bool[Tensor, "batch token token"],
    ) -> Float[Tensor, "batch token width"]:
        parts = nodes.unflatten(-1, edge.shape[1:])
        asks, answers = torch.einsum("bthp,ehp->ebht", parts, edge)
        scores = F.leaky_relu(asks[..., :, None] + answers[..., None, :], LEAK)
        shares = scores.masked_fill(~joined[:, None], FLOOR).softmax(-1)
        return torch.einsum("bhts,bshp->bthp", shares, parts).flatten(2)

    def tap(self) -> None:
        """There is none: an edge needs two whole states."""

    @property
    def fold_key(self) -> tuple[object, ...]:
        """Every graph folds alone."""
        return (id(self),)


class GlotFold(Fold):
    """Keeps all states; builds the graph when asked."""

    def __init__(self, networks: Sequence[Glot]) -> None:
        super().__init__(networks)
        (self.network,) = networks

    def summarise(
        self, values: Float[Tensor, "layer batch token tap"], mask: Bool[Tensor, "batch token"]
    ) -> State:
        """The chunk's states and which of them are tokens."""
        seen = mask[None].expand(values.shape[0], -1, -1)
        return {"states": values.float().masked_fill(~seen[..., None], 0.0), "seen": seen}

    def merge(self, first: State, second: State) -> State:
        """One after the other."""
        return {name: torch.cat([first[name], second[name]], dim=2) for name in first}

    @torch.no_grad()
    def finish(self, state: State) -> Float[Tensor, "batch output"]:
        """The definition, on everything kept."""
        return self.network(state["states"], state["seen"][0])


Glot.fold_class = GlotFold
