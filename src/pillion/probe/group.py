"""Probes that are read together: one tap a layer, one fold for all of them.

Turns hidden states into values and values into fold states. Knows folds, not engines or sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.core import Scope
from pillion.core.arithmetic import as_given
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.probe.network import Fold, State, inverse_rms, inverse_rms_by_layer

FEW_TOKENS = 64
"""Up to so many, all layers are normalised at once; see `inverse_rms_by_layer` for more."""
MOST_CHOSEN = 0.75
"""Where layers are tapped one by one: share of the tokens up to which only those that are read are
tapped."""


class Group:
    """Probes of one fold class on the same layers, which read the same scope.

    Args:
        artefacts: their probes; all with the same layers, scope and `fold_key`.
        device: where the model runs.
        dtype: of the model's states; on an accelerator taps are kept in bf16 if it is that. In
            all other cases taps and their products are in fp32: rounded to bf16, a value would
            differ with the shape of the batch that its product was made in.

    Attributes:
        layers: the model's layers that are read, ascending.
        scope: which segments are read.
        weight_bytes: memory of the taps.
    """

    def __init__(
        self, artefacts: Sequence[Artefact], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.artefacts = tuple(artefacts)
        self.layers = artefacts[0].card.layers
        self.scope: Scope = artefacts[0].card.scope
        networks = [a.network.to(device).eval() for a in artefacts]
        self.fold: Fold = networks[0].fold_class(networks)
        taps = [n.tap() for n in networks]
        narrow = dtype == torch.bfloat16 and device.type != "cpu"
        self.dtype = torch.bfloat16 if narrow else torch.float32
        self.normalise = taps[0].normalise
        self.own = torch.cat([t.per_layer for t in taps], -1).to(self.dtype).contiguous()
        self.common = torch.cat([t.shared for t in taps], -1).to(self.dtype).contiguous()
        # A layer's own columns are put beside the common ones when it is its turn.
        self._beside = torch.cat([self.own[0], self.common], -1)

    @property
    def num_values(self) -> int:
        """Values a token and layer."""
        return self.own.shape[-1] + self.common.shape[-1]

    @property
    def weight_bytes(self) -> int:
        """Memory that the taps take, in bytes."""
        return sum(t.nbytes for t in (self.own, self.common, self._beside))

    def tensors(self) -> dict[str, Tensor]:
        """All that taps, fold and probes hold on the device, each under a name of its own."""
        found = {f"tap.{name}": one for name, one in vars(self).items() if _is_tensor(one)}
        found |= {f"fold.{name}": one for name, one in vars(self.fold).items() if _is_tensor(one)}
        for place, artefact in enumerate(self.artefacts):
            named = [*artefact.network.named_parameters(), *artefact.network.named_buffers()]
            found |= {f"probe.{place}.{name}": one.data for name, one in named}
        return found

    def empty_values(
        self, num_layers: int, batch: int, chunk: int
    ) -> Float[Tensor, "layer batch chunk tap"]:
        """Room for the values of so many layers."""
        taps = self.own.shape[-1] + self.common.shape[-1]
        return torch.empty(num_layers, batch, chunk, taps, device=self.own.device)

    def layer_values(
        self,
        index: int,
        hidden: Float[Tensor, "batch chunk dim"],
        out: Float[Tensor, "batch chunk tap"] | None = None,
        scale: Float[Tensor, "batch chunk"] | None = None,
    ) -> Float[Tensor, "1 batch chunk tap"]:
        """Values of one layer, the index-th of `layers`, in fp32.

        Args:
            index: of the layer.
            hidden: its states; in the dtype of the taps they need not be converted for each group.
            out: where the values go; None for a place of their own.
            scale: `inverse_rms` of the states, if it is known.
        """
        if out is None:
            (out,) = self.empty_values(1, *hidden.shape[:2])
        states = hidden.to(self.dtype)
        self.products(index, states, out)
        if self.normalise:
            out *= (inverse_rms(states) if scale is None else scale)[..., None]
        return out[None]

    def products(
        self,
        index: int,
        states: Float[Tensor, "batch chunk dim"],
        out: Float[Tensor, "batch chunk tap"],
    ) -> None:
        """Values of one layer before they are normalised, from states in the dtype of the taps."""
        flat = states.reshape(-1, states.shape[-1])
        columns, to = self._columns(index), out.view(len(flat), -1)
        if self.dtype == out.dtype:
            torch.mm(flat, columns, out=to)
        else:
            to.copy_(flat @ columns)

    def _columns(self, index: int) -> Float[Tensor, "dim tap"]:
        """All columns of the index-th layer, until those of another are asked for.

        One product of all of them: a second one, of few, takes half as long again.
        """
        width = self.own.shape[-1]
        if not self.common.shape[-1]:
            return self.own[index]
        self._beside[:, :width] = self.own[index]
        return self._beside

    def own_values(
        self, layers: tuple[int, ...], every: Float[Tensor, "seen batch chunk dim"]
    ) -> tuple[tuple[int, ...], Float[Tensor, "layer batch chunk tap"]] | None:
        """Those of several layers that this group reads, and their values; None if it reads none.

        Values are in fp32, of all layers at once: a handful of operations for a decoding step.

        Args:
            layers: neighbours among those that some group reads, ascending.
            every: their states.
        """
        read = tuple(layer for layer in layers if layer in self.layers)
        if not read:
            return None
        hidden = every if read == layers else every[[layers.index(layer) for layer in read]]
        first, (count, batch, chunk, dim) = self.layers.index(read[0]), hidden.shape
        states = hidden.to(self.dtype).view(count, batch * chunk, dim)
        own = torch.bmm(states, self.own[first : first + count])
        common = states.view(-1, dim) @ self.common
        values = torch.cat([own, common.view(count, batch * chunk, -1)], -1).float()
        values = values.view(count, batch, chunk, -1)
        if self.normalise:
            many = batch * chunk > FEW_TOKENS or hidden.device.type != "cpu"
            scale = inverse_rms_by_layer(hidden) if many else inverse_rms(hidden.float())
            values *= scale[..., None]
        return read, values

    def logits(self, state: State) -> list[Float[Tensor, "batch output"]]:
        """Logits of each probe of the group."""
        with as_given(self.own.device):
            out = self.fold.finish(state)
        return [out[:, columns] for columns in self.fold.columns]


def _is_tensor(one: object) -> TypeGuard[Tensor]:
    return isinstance(one, Tensor)


def check_names(names: Sequence[str]) -> None:
    """Returns if probes that are read together can be told apart.

    Raises:
        ConfigError: two have one name.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"Probe names must differ; got {', '.join(names)}. Rename a folder.")


def group(artefacts: Sequence[Artefact], device: torch.device, dtype: torch.dtype) -> list[Group]:
    """Probes sorted into groups that can share taps and a fold.

    Raises:
        ConfigError: two probes of one name.
    """
    check_names([a.name for a in artefacts])
    sorted_by: dict[tuple[object, ...], list[Artefact]] = {}
    for artefact in artefacts:
        key = (artefact.card.layers, artefact.card.scope, artefact.network.fold_key)
        sorted_by.setdefault(key, []).append(artefact)
    return [Group(members, device, dtype) for members in sorted_by.values()]
