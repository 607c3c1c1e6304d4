"""The contract of a probe's arithmetic: a plain definition, and the same thing as tap and fold.

`Network.forward` is the paper's formula on full sequences: what training runs and what every test
compares with. `tap` and `Fold` are how the same number is read while the model runs: wide states
become a few values a token at the layer where they are born, and values are folded associatively.
Knows neither engines nor files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pillion.core import Shape
from pillion.core.strict import Strict
from pillion.probe.tensors import Hidden, Logits, Mask, Scale, Values

RMS_EPS = 1e-6
"""Added to a token's mean square before the root, so that an all-zero state stays finite."""

State = dict[str, Tensor]
"""What a fold keeps: every tensor is [layer, batch, ...]; small, fp32."""


class NetworkSettings(Strict):
    """Base of every aggregator's settings."""


@dataclass(frozen=True)
class Tap:
    """The linear read of hidden states: columns of weights, per layer and shared by all layers.

    A token's values are `scale * [h @ per_layer[l] | h @ shared]`, where scale is 1 / rms(h) if
    `normalise` else 1: normalising after the product is exact and never makes a wide copy.

    Attributes:
        per_layer: [layer, dim, a] columns of each layer's own.
        shared: [dim, b] columns that every layer shares, kept once.
        normalise: whether states are RMS-normalised (no learned scale).
    """

    per_layer: Float[Tensor, "layer dim own"]
    shared: Float[Tensor, "dim common"]
    normalise: bool

    @property
    def num_values(self) -> int:
        """Values a token and layer."""
        return self.per_layer.shape[-1] + self.shared.shape[-1]


class Fold(ABC):
    """Values in, logits out: associative, so that any cut of a sequence gives the same result.

    Law: for any cut of a sequence into chunks, `finish` of the `merge` of the chunks' `summarise`
    equals `finish(summarise(whole))`, in any grouping of the merges (the order of the chunks is
    kept), and equals `Network.forward` on the hidden states the values were tapped from.

    One fold serves several networks of one `fold_key` at once. Their values lie side by side, as
    their taps do: every network's own columns, then every network's shared ones. Masked values may
    be anything.

    Args:
        networks: one or several of one `fold_key`; their weights are read now, not later.

    Attributes:
        network: the first of them.
        columns: where network i's logits are in the output of `finish`.
    """

    columns: tuple[slice, ...]

    def __init__(self, networks: Sequence[Network]) -> None:
        self.network: Any = networks[0]
        sizes = [n.shape.num_outputs for n in networks]
        ends = accumulate(sizes)
        self.columns = tuple(slice(end - size, end) for size, end in zip(sizes, ends, strict=True))

    @abstractmethod
    def summarise(self, values: Values, mask: Mask) -> State:
        """The state of one chunk of at least one token, in fp32 whatever the values' dtype.

        May be called for one layer at a time; stack with `join`. The state may share memory with
        `values`.
        """

    def of_tokens(self, values: Float[Tensor, "layer batch tap"]) -> State:
        """`summarise` of rows of one token each, all of them there."""
        one = torch.ones(values.shape[1], 1, dtype=torch.bool, device=values.device)
        return self.summarise(values[:, :, None], one)

    @abstractmethod
    def merge(self, first: State, second: State) -> State:
        """The state of two neighbouring chunks, `first` before `second`."""

    @abstractmethod
    def finish(self, state: State) -> Logits:
        """Logits of everything folded so far, in fp32.

        On a state of all layers; where networks have `depths`, of the first layers too.
        """


def join(states: Sequence[State]) -> State:
    """Stacks states of single layers into one of all layers."""
    if len(states) == 1:
        return states[0]
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def pick(state: State, rows: Tensor) -> State:
    """The state of some batch rows, repeated or reordered as `rows` says."""
    return {name: tensor.index_select(1, rows) for name, tensor in state.items()}


def first_layers(state: State, num_layers: int) -> State:
    """What the state says of the first layers alone."""
    return {name: tensor[:num_layers] for name, tensor in state.items()}


class Network(nn.Module, ABC):
    """A probe's arithmetic: token aggregator in each layer, layer aggregator, head.

    Law: `forward` does not depend on padding (any finite states), on the side it is on, or on the
    other rows; it accepts any floating dtype, accumulates in fp32 and returns fp32.

    Attributes:
        shape: layers read, width, outputs.
        settings: the configuration it was made from.
        streamable: whether a new token costs the same however long the sequence is.
        depths: whether its first layers alone give logits, too; see `depth_votes`.
        additive: whether the logits are a sum over tokens and layers, given the weights of both.
    """

    streamable: ClassVar[bool] = True
    depths: ClassVar[bool] = False
    additive: ClassVar[bool] = False
    fold_class: ClassVar[type[Fold]]

    shape: Shape

    @abstractmethod
    def forward(self, hidden: Hidden, mask: Mask, scale: Scale | None = None) -> Logits:
        """Logits by the plain definition on whole sequences.

        Args:
            hidden: states; what lies in the padding does not matter.
            mask: which of them are tokens.
            scale: `inverse_rms_by_layer` of the states, for a caller that has several networks read
                them; None to compute it where it is needed.
        """

    def votes(
        self, hidden: Hidden, mask: Mask, scale: Scale | None = None
    ) -> Float[Tensor, "member batch output"]:
        """Logits that each learn from a loss of their own; their mean is what `forward` gives.

        One member, `forward` itself, unless a network says otherwise. Arguments as of `forward`.
        """
        return self(hidden, mask, scale)[None]

    def prefix_votes(
        self, hidden: Hidden, mask: Mask, ends: Sequence[int], scale: Scale | None = None
    ) -> Float[Tensor, "member batch prefix output"]:
        """`votes` after the first tokens alone, once for each of several ends.

        Law: prefix i equals `votes` of the first `ends[i]` positions, whatever follows them. A
        network that folds does each token's work once; by default each prefix is read anew.

        Args:
            hidden: states; what lies in the padding does not matter.
            mask: which of them are tokens.
            ends: positions at which a prefix ends, from 1, rising. A row that is over before is
                whole in a longer prefix, if it is padded on the right.
            scale: as of `forward`.
        """
        each = (
            self.votes(
                hidden[:, :, :end], mask[:, :end], None if scale is None else scale[:, :, :end]
            )
            for end in ends
        )
        return torch.stack(list(each), dim=2)

    def depth_votes(
        self, hidden: Hidden, mask: Mask, depths: Sequence[int], scale: Scale | None = None
    ) -> Float[Tensor, "member batch depth output"]:
        """`votes` of the first layers alone, once for each of several numbers of layers.

        Law: depth i equals `votes` of a network of the same weights that reads the first
        `depths[i]` layers, and `finish` of the fold's state of these; all layers give `votes`.

        Args:
            hidden: states; what lies in the padding does not matter.
            mask: which of them are tokens.
            depths: numbers of layers, from 1, rising.
            scale: as of `forward`.

        Raises:
            NotImplementedError: by a network without `depths`.
        """
        raise NotImplementedError(f"{type(self).__name__} says nothing of its first layers alone.")

    @abstractmethod
    def tap(self) -> Tap:
        """The linear read of hidden states."""

    @property
    def fold_key(self) -> tuple[object, ...]:
        """Networks with equal keys (and layers) can share one fold; by default each folds alone."""
        return (id(self),)

    def contributions(
        self, values: Values, mask: Mask
    ) -> Float[Tensor, "layer batch token output"]:
        """What each token at each layer adds to the logits; only where `additive`.

        Law: summed over layers and tokens they are the logits less the bias; padding adds nothing.
        The weights of a softmax count as given: a contribution says what was added, not what would
        change if the token were another.

        Args:
            values: as a fold is given them.
            mask: which positions hold a token.

        Raises:
            NotImplementedError: by a network that is not additive.
        """
        raise NotImplementedError(f"The logits of {type(self).__name__} are no sum over tokens.")

    @property
    def num_parameters(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.parameters())


def inverse_rms(hidden: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead"]:
    """Of every state x, 1 / rms(x) in fp32: their product has mean square 1 (no learned scale)."""
    norm = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    return inverse_rms_of(norm, hidden.shape[-1])


def inverse_rms_of(norm: Float[Tensor, "*lead"], dim: int) -> Float[Tensor, "*lead"]:
    """`inverse_rms` of states whose lengths (2-norms) are known, and how wide they are."""
    return torch.rsqrt(norm.square() / dim + RMS_EPS)


def inverse_rms_by_layer(hidden: Hidden) -> Scale:
    """`inverse_rms`, on a processor a layer at a time: the fp32 copy then stays in its cache."""
    if hidden.device.type != "cpu":
        return inverse_rms(hidden)
    out = torch.empty(hidden.shape[:-1], dtype=torch.float32, device=hidden.device)
    for layer_id, states in enumerate(hidden):
        out[layer_id] = inverse_rms(states.float())
    return out


def scale_for(hidden: Tensor, normalise: bool, scale: Tensor | None) -> Tensor | None:
    """What values are multiplied by: the scale that is known, or a new one; None for raw states."""
    if not normalise:
        return None
    return inverse_rms_by_layer(hidden) if scale is None else scale


def values_of(
    hidden: Hidden, columns: Float[Tensor, "layer dim tap"], scale: Scale | None
) -> Values:
    """Tapped values that learn: products in the dtype of the states, then fp32.

    Normalising is a scalar a token: it is applied to what is read, never to states.
    """
    layers, batch, tokens, dim = hidden.shape
    values = torch.bmm(hidden.reshape(layers, -1, dim), columns.to(hidden.dtype)).float()
    values = values.view(layers, batch, tokens, -1)
    return values if scale is None else values * scale[..., None]


def running(
    summarise: Callable[[slice], State],
    merge: Callable[[State, State], State],
    ends: Sequence[int],
) -> Iterator[State]:
    """The states of growing prefixes: each chunk is summarised once and merged into the last.

    Args:
        summarise: the state of the positions of a slice.
        merge: of two neighbouring chunks.
        ends: where the prefixes end, from 1, rising.
    """
    chunks = (summarise(slice(begin, end)) for begin, end in pairwise((0, *ends)))
    return accumulate(chunks, merge)
