"""Direct pooling: mean or max over tokens, then over layers, then a linear head.

The paper's cheapest instance (arXiv 2601.13288, sec. 3). The mean is tapped to one column a class;
the maximum of raw states cannot be, so it keeps the states' width. Knows neither engines nor files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pillion.core import Shape
from pillion.probe.network import Fold, Network, Settings, State, Tap


class PoolingSettings(Settings):
    """Direct pooling has nothing to set: states are read raw, as the paper does."""


class MeanPooling(Network):
    """Mean over tokens and layers: `logits = W mean_l mean_t h[l,t] + b`."""

    def __init__(self, shape: Shape, settings: PoolingSettings) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings
        self.weight = nn.Parameter(torch.randn(shape.dim, shape.num_outputs) * 0.02)
        self.bias = nn.Parameter(torch.zeros(shape.num_outputs))

    def forward(
        self,
        hidden: Float[Tensor, "layer batch token dim"],
        mask: Bool[Tensor, "batch token"],
        scale: Float[Tensor, "layer batch token"] | None = None,
    ) -> Float[Tensor, "batch output"]:
        """Logits by the definition; an empty row gives the bias."""
        share = mask.float() / mask.sum(1, keepdim=True).clamp(min=1)
        # A sum over tokens as a product: masked states are multiplied by zero, accumulated in fp32.
        mean = torch.stack([torch.einsum("btd,bt->bd", h.float(), share) for h in hidden]).mean(0)
        return mean @ self.weight + self.bias

    def tap(self) -> Tap:
        """One column a class: the head commutes with both means."""
        none = self.weight.detach().new_zeros(self.shape.num_layers, self.shape.dim, 0)
        return Tap(none, self.weight.detach(), normalise=False)

    @property
    def additive(self) -> bool:
        """True: a mean of linear values."""
        return True

    def contributions(
        self, values: Float[Tensor, "layer batch token tap"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "layer batch token output"]:
        """`W h[l,t]`, divided by the number of tokens and layers."""
        share = mask.float() / (mask.sum(1, keepdim=True).clamp(min=1) * len(values))
        return values.float().masked_fill(~mask[None, :, :, None], 0.0) * share[..., None]

    @property
    def fold_key(self) -> tuple[object, ...]:
        """All mean poolings share a fold."""
        return (type(self),)


class MeanFold(Fold):
    """Sum and count of class values."""

    def __init__(self, networks: Sequence[MeanPooling]) -> None:
        super().__init__(networks)
        self.bias = torch.cat([n.bias.detach().float() for n in networks])

    def summarise(
        self, values: Float[Tensor, "layer batch token tap"], mask: Bool[Tensor, "batch token"]
    ) -> State:
        """Sum and count of one chunk."""
        seen = mask[None, :, :, None]
        count = mask.sum(1).float()[None, :, None].expand(values.shape[0], -1, 1)
        total = values.masked_fill(~seen, 0.0).sum(2, dtype=torch.float32)
        return {"sum": total, "count": count}

    def merge(self, first: State, second: State) -> State:
        """Adds both."""
        return {name: first[name] + second[name] for name in first}

    def finish(self, state: State) -> Float[Tensor, "batch output"]:
        """Mean over tokens, then layers; an empty row gives the bias."""
        return (state["sum"] / state["count"].clamp(min=1)).mean(0) + self.bias


class MaxPooling(Network):
    """Maximum over tokens and layers, component by component. Not tappable: states stay wide."""

    tappable = False

    def __init__(self, shape: Shape, settings: PoolingSettings) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings
        self.weight = nn.Parameter(torch.randn(shape.dim, shape.num_outputs) * 0.02)
        self.bias = nn.Parameter(torch.zeros(shape.num_outputs))

    def forward(
        self,
        hidden: Float[Tensor, "layer batch token dim"],
        mask: Bool[Tensor, "batch token"],
        scale: Float[Tensor, "layer batch token"] | None = None,
    ) -> Float[Tensor, "batch output"]:
        """Logits by the definition; an empty row gives the bias."""
        top = torch.stack([_masked_max(h, mask) for h in hidden]).amax(0)
        return top.masked_fill(~mask.any(1, keepdim=True), 0.0) @ self.weight + self.bias

    def tap(self) -> None:
        """None: the values are the states themselves."""
        return

    @property
    def additive(self) -> bool:
        """True: each component comes from one token of one layer."""
        return True

    @torch.no_grad()
    def contributions(
        self, values: Float[Tensor, "layer batch token tap"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "layer batch token output"]:
        """A component's share of the logits goes to the (first) token and layer of its maximum."""
        hidden = values.float().masked_fill(~mask[None, :, :, None], -torch.inf)
        layers, batch, tokens, _ = hidden.shape
        top, place = hidden.transpose(0, 1).flatten(1, 2).max(1)
        top = top.masked_fill(top.isneginf(), 0.0)
        out = top.new_zeros(batch, layers * tokens, self.weight.shape[1])
        share = top[..., None] * self.weight.float()
        out.scatter_add_(1, place[..., None].expand_as(share), share)
        return out.view(batch, layers, tokens, -1).transpose(0, 1)

    @property
    def fold_key(self) -> tuple[object, ...]:
        """All maximum poolings share a fold."""
        return (type(self),)


class MaxFold(Fold):
    """Running maximum of wide states."""

    def __init__(self, networks: Sequence[MaxPooling]) -> None:
        super().__init__(networks)
        self.weight = torch.cat([n.weight.detach().float() for n in networks], dim=1)
        self.bias = torch.cat([n.bias.detach().float() for n in networks])

    def summarise(
        self, values: Float[Tensor, "layer batch token tap"], mask: Bool[Tensor, "batch token"]
    ) -> State:
        """Maximum of one chunk."""
        return {"max": torch.stack([_masked_max(v, mask) for v in values])}

    def merge(self, first: State, second: State) -> State:
        """The larger of both."""
        return {"max": torch.maximum(first["max"], second["max"])}

    def finish(self, state: State) -> Float[Tensor, "batch output"]:
        """Maximum over layers, then the head; an empty row gives the bias."""
        top = state["max"].amax(0)
        return top.masked_fill(top.isneginf(), 0.0) @ self.weight + self.bias


MeanPooling.fold_class, MaxPooling.fold_class = MeanFold, MaxFold


def _masked_max(
    states: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch dim"]:
    # The maximum is exact in any dtype: only its result is widened.
    return states.masked_fill(~mask[..., None], -torch.inf).amax(1).float()
