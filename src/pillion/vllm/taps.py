"""Hidden states to values, inside vLLM's forward pass.

Values go to memory that a captured graph goes on writing. Nothing here waits for the device or
depends on what a step holds. Knows no request and no page.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.probe.group import Group
from pillion.probe.network import inverse_rms
from pillion.sidecache import page_numbers

STACKED_TOKENS = 256
"""Chunks up to this many tokens are tapped in all layers at once, which takes a dozen operations in
the place of several a layer; longer ones layer by layer, without a copy of all their states."""


@dataclass(frozen=True)
class MemoryNeeds:
    """What probes need beside a model.

    Attributes:
        layers: the model's layers that they read, ascending.
        token_numbers: fp32 numbers that are kept of each token of a step.
        page_numbers: fp32 numbers beside every block of the KV cache.
    """

    layers: tuple[int, ...]
    token_numbers: int
    page_numbers: int

    @classmethod
    def of(cls, groups: Sequence[Group]) -> MemoryNeeds:
        """What groups of probes need."""
        return cls(
            tuple(sorted({layer for one in groups for layer in one.layers})),
            sum(len(one.layers) * one.num_values for one in groups),
            sum(map(page_numbers, groups)),
        )

    def holds(self, other: MemoryNeeds) -> bool:
        """Whether others can take the place of these: no more memory, no other layers."""
        return (
            other.token_numbers <= self.token_numbers
            and other.page_numbers <= self.page_numbers
            and set(other.layers) <= set(self.layers)
        )


class _Bundle:
    """Groups on the same layers: the same few operations for all of them.

    Args:
        groups: the groups.
        memory: for the values of a step.
        max_tokens: most tokens of a step.

    Attributes:
        layers: the model's layers that are read, ascending.
        values: of all groups, [layer, token, tap]; what is normalised comes first.
        of_group: each group's part of them.
        num_normalised: how many of a layer's values are normalised.
        size: numbers of the memory that are taken.
    """

    def __init__(
        self, groups: Sequence[Group], memory: Float[Tensor, " number"], max_tokens: int
    ) -> None:
        self.layers, num_layers = groups[0].layers, len(groups[0].layers)
        each = sorted(groups, key=lambda one: not one.normalise)
        alone = each[0] if len(each) == 1 else None
        # Columns that all layers share are kept once: copies would be more to read than to launch.
        self._own = alone.own if alone else torch.cat([one.own for one in each], -1)
        self._common = alone.common if alone else torch.cat([one.common for one in each], -1)
        self._order = None if alone else _by_group(each).to(self._own.device)
        self.num_normalised = sum(one.num_values for one in each if one.normalise)
        num_values = sum(one.num_values for one in each)
        self.size = num_layers * max_tokens * num_values
        self.values = memory[: self.size].view(num_layers, max_tokens, num_values)
        self.of_group: dict[Group, Tensor] = {}
        begin = 0
        for one in each:
            self.of_group[one] = self.values[:, :, begin : begin + one.num_values]
            begin += one.num_values

    def tensors(self) -> dict[str, Tensor]:
        """What it holds on the device beside what its groups do, by name."""
        named = {"own": self._own, "common": self._common, "order": self._order}
        return {} if self._order is None else {n: t for n, t in named.items() if t is not None}

    def see(
        self,
        index: slice,
        states: Float[Tensor, "layer chunk dim"],
        scale: Float[Tensor, "layer chunk"] | None,
    ) -> None:
        """Values of some layers.

        Args:
            index: which of `layers`.
            states: in fp32.
            scale: `inverse_rms` of them; None if nothing is normalised.
        """
        product = torch.cat([torch.bmm(states, self._own[index]), states @ self._common], -1)
        if self._order is not None:
            product = product.index_select(-1, self._order)
        num, out = self.num_normalised, self.values[index, : states.shape[1]]
        if scale is not None and num:
            out[..., :num] = product[..., :num] * scale[..., None]
        if num < product.shape[-1]:
            out[..., num:] = product[..., num:]


def _by_group(groups: Sequence[Group]) -> Int[Tensor, " tap"]:
    """Places of each group's values, one group after the other, among all own and then common."""
    own, common = 0, sum(one.own.shape[-1] for one in groups)
    found: list[int] = []
    for one in groups:
        num_own, num_common = one.own.shape[-1], one.common.shape[-1]
        found += [*range(own, own + num_own), *range(common, common + num_common)]
        own, common = own + num_own, common + num_common
    return torch.tensor(found)


class VllmTaps:
    """Values of the tokens of a step, in the order in which vLLM runs them.

    Args:
        groups: of the probes, in fp32.
        max_tokens: most tokens of a step.
        device: where the model runs.

    Attributes:
        needs: the memory that was made.
        groups: of the probes that ride now.
        values: of each group, [layer, token, tap].
        slots: place of each token in the KV cache.
    """

    def __init__(self, groups: Sequence[Group], max_tokens: int, device: torch.device) -> None:
        self.needs, self.max_tokens, self.device = MemoryNeeds.of(groups), max_tokens, device
        self.slots = torch.zeros(max_tokens, dtype=torch.long, device=device)
        self._memory = torch.zeros(max_tokens * self.needs.token_numbers, device=device)
        self._place = {layer: place for place, layer in enumerate(self.needs.layers)}
        self._seconds = 0.0
        self.use(groups)

    def use(self, groups: Sequence[Group]) -> None:
        """Takes other probes, which need no more than the first ones."""
        self.groups, self._bundles = tuple(groups), list[_Bundle]()
        by_layers: dict[tuple[int, ...], list[Group]] = {}
        for one in groups:
            by_layers.setdefault(one.layers, []).append(one)
        begin = 0
        for some in by_layers.values():
            self._bundles.append(_Bundle(some, self._memory[begin:], self.max_tokens))
            begin += self._bundles[-1].size
        values = {one: own for some in self._bundles for one, own in some.of_group.items()}
        self.values = [values[one] for one in groups]

    def tensors(self) -> dict[str, Tensor]:
        """Weights of taps, folds and probes, each under a name of its own."""
        found: dict[str, Tensor] = {}
        for place, one in enumerate(self.groups):
            found |= {f"{place}.{name}": tensor for name, tensor in one.tensors().items()}
        for place, some in enumerate(self._bundles):
            found |= {f"bundle.{place}.{name}": own for name, own in some.tensors().items()}
        return found

    @property
    def held_bytes(self) -> int:
        """Memory of a step's values, in bytes."""
        return self._memory.nbytes + self.slots.nbytes

    def see(
        self,
        hidden: Sequence[Float[Tensor, "chunk dim"]],
        slots: Int[Tensor, " slot"] | None,
    ) -> None:
        """Taps a step; its states need not be kept.

        Args:
            hidden: states of every layer of `needs.layers`.
            slots: place of each token in the KV cache; None in a run that only warms up.
        """
        begin, num_tokens = time.perf_counter(), len(hidden[0])
        if num_tokens <= STACKED_TOKENS:
            # Widened and measured once, for all of them.
            stacked = torch.stack(list(hidden)).float()
            self._see_stacked(stacked)
        else:
            for layer, states in zip(self.needs.layers, hidden, strict=True):
                self._see_layer(layer, states.float()[None])
        if slots is not None:
            self.slots[:num_tokens].copy_(slots[:num_tokens])
        self._seconds += time.perf_counter() - begin

    def _scale(
        self, states: Float[Tensor, "layer chunk dim"]
    ) -> Float[Tensor, "layer chunk"] | None:
        normalised = any(one.num_normalised for one in self._bundles)
        return inverse_rms(states) if normalised else None

    def _see_stacked(self, stacked: Float[Tensor, "layer chunk dim"]) -> None:
        scale = self._scale(stacked)
        for one in self._bundles:
            own, of_own = stacked, scale
            if len(one.layers) < len(self.needs.layers):
                places = [self._place[layer] for layer in one.layers]
                own = torch.stack([stacked[place] for place in places])
                if scale is not None:
                    of_own = torch.stack([scale[place] for place in places])
            one.see(slice(None), own, of_own)

    def _see_layer(self, layer: int, states: Float[Tensor, "1 chunk dim"]) -> None:
        scale = self._scale(states)
        for one in self._bundles:
            if layer in one.layers:
                index = one.layers.index(layer)
                one.see(slice(index, index + 1), states, scale)

    def take_seconds(self) -> float:
        """Seconds that the host has spent in `see` since the last call."""
        taken, self._seconds = self._seconds, 0.0
        return taken
