"""A panel: a gate and a downcast attention read the same states, and their logits are averaged.

The two err on different texts, so their mean is right more often than either; two of a kind gain
little (`docs/log.md`). In training a row may hear one member alone, so that each learns to stand by
itself as in an ensemble (Hansen and Salamon 1990), while both share every read of the states. Knows
neither engines nor files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from pillion.core import Shape
from pillion.probe.gate import Gate, GateSettings
from pillion.probe.mha import CausalMha, Mha, MhaSettings
from pillion.probe.network import Fold, Network, Settings, State, Tap, inverse_rms_by_layer


class PanelSettings(Settings):
    """Settings of a panel.

    Attributes:
        num_heads: K, of the gate.
        width: d', of the attention's queries, keys and values.
        attention_heads: of the attention; divides `width`.
        solo: share of rows that hear one member alone in training, drawn anew every step.
        dropout: share of the attention's pooled components dropped in training.
        token_dropout: share of tokens hidden from the gate in training.
        causal: the attention looks at the past only; what the name says, not free to choose.
        normalise: states are RMS-normalised, always.
    """

    num_heads: int = Field(default=8, ge=1)
    width: int = Field(default=32, ge=1)
    attention_heads: int = Field(default=8, ge=1)
    solo: float = Field(default=0.5, ge=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    token_dropout: float = Field(default=0.0, ge=0, lt=1)
    causal: bool = False
    normalise: bool = True

    @model_validator(mode="after")
    def _fits(self) -> PanelSettings:
        if self.width % self.attention_heads:
            raise ValueError(
                f"attention_heads={self.attention_heads} does not divide width={self.width}"
            )
        if not self.normalise:
            raise ValueError("a panel reads normalised states; leave normalise=True")
        return self


class Panel(Network):
    """`logits = (gate(x) + attention(x)) / 2`; see `Gate` and `Mha`."""

    streamable = False
    attention_class: type[Mha] = Mha

    def __init__(self, shape: Shape, settings: PanelSettings) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings
        of_gate = GateSettings(num_heads=settings.num_heads, token_dropout=settings.token_dropout)
        of_attention = MhaSettings(
            width=settings.width,
            num_heads=settings.attention_heads,
            dropout=settings.dropout,
            causal=settings.causal,
        )
        self.gate = Gate(shape, of_gate)
        self.attention = self.attention_class(shape, of_attention)

    @property
    def members(self) -> tuple[Gate, Mha]:
        """Both, the gate first."""
        return self.gate, self.attention

    @property
    def bias(self) -> Float[Tensor, " output"]:
        """What an empty text gets."""
        return (self.gate.bias + self.attention.bias) / 2

    def forward(
        self,
        hidden: Float[Tensor, "layer batch token dim"],
        mask: Bool[Tensor, "batch token"],
        scale: Float[Tensor, "layer batch token"] | None = None,
    ) -> Float[Tensor, "batch output"]:
        """The mean of the members' logits; in training of one alone where a row hears it alone."""
        scale = inverse_rms_by_layer(hidden) if scale is None else scale
        logits = torch.stack([member(hidden, mask, scale) for member in self.members])
        return (logits * self._shares(logits)).sum(0)

    def _shares(
        self, logits: Float[Tensor, "member batch output"]
    ) -> Float[Tensor, "member batch 1"]:
        """How much each member counts in each row."""
        shares = torch.full_like(logits[..., :1], 0.5)
        if not self.training or not self.settings.solo:
            return shares
        alone = torch.rand_like(shares[0]) < self.settings.solo
        first = (torch.rand_like(shares[0]) < 0.5).to(shares.dtype)
        return torch.where(alone, torch.stack([first, 1 - first]), shares)

    def tap(self) -> Tap:
        """The gate's scores and the attention's queries, keys and values; the gate's classes."""
        gate, attention = self.gate.tap(), self.attention.tap()
        own = torch.cat([gate.per_layer, attention.per_layer], -1)
        return Tap(own, gate.shared, normalise=True)

    @property
    def additive(self) -> bool:
        """True: both members are."""
        return True

    @torch.no_grad()
    def contributions(
        self, values: Float[Tensor, "layer batch token tap"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "layer batch token output"]:
        """The mean of what a token adds to each member's logits."""
        parts = zip(self.members, self.split(values), strict=True)
        one, two = (member.contributions(part, mask) for member, part in parts)
        return (one + two) / 2

    def split(
        self, values: Float[Tensor, "layer batch token tap"]
    ) -> tuple[Float[Tensor, "layer batch token own"], Float[Tensor, "layer batch token other"]]:
        """Each member's values."""
        scores, qkv, rest = values.split(
            [
                self.settings.num_heads,
                3 * self.settings.width,
                values.shape[-1] - self.settings.num_heads - 3 * self.settings.width,
            ],
            dim=-1,
        )
        return torch.cat([scores, rest], -1), qkv

    @property
    def fold_key(self) -> tuple[object, ...]:
        """Every panel folds alone, as its attention does."""
        return (id(self),)


class CausalPanel(Panel):
    """With an attention to the past only: for streams."""

    streamable = True
    attention_class = CausalMha


class PanelFold(Fold):
    """The members' folds side by side."""

    def __init__(self, networks: Sequence[Panel]) -> None:
        super().__init__(networks)
        (self.network,) = networks
        self.folds = [member.fold_class([member]) for member in self.network.members]

    def summarise(
        self, values: Float[Tensor, "layer batch token tap"], mask: Bool[Tensor, "batch token"]
    ) -> State:
        """Both members' states of a chunk."""
        parts = zip(self.folds, self.network.split(values), strict=True)
        return _joined([fold.summarise(part, mask) for fold, part in parts])

    def merge(self, first: State, second: State) -> State:
        """Each member's own way."""
        parts = zip(self.folds, _parted(first), _parted(second), strict=True)
        return _joined([fold.merge(one, two) for fold, one, two in parts])

    def finish(self, state: State) -> Float[Tensor, "batch output"]:
        """The mean of the members' logits."""
        one, two = (
            fold.finish(part) for fold, part in zip(self.folds, _parted(state), strict=True)
        )
        return (one + two) / 2


Panel.fold_class = PanelFold


def _joined(states: Sequence[State]) -> State:
    return {f"{i}.{name}": t for i, state in enumerate(states) for name, t in state.items()}


def _parted(state: State) -> list[State]:
    parts: list[State] = [{}, {}]
    for name, tensor in state.items():
        parts[int(name[0])][name[2:]] = tensor
    return parts
