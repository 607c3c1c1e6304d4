"""What is kept of tokens beside the KV cache: a row of values a token, a folded state a block.

Turns a chunk's hidden states into rows, rows into states, and states into logits, all as plain
matrices whose columns this module alone knows. The arithmetic is that of the probes' folds. Knows
no engine, no request and no block table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.probe.group import Group, group
from pillion.probe.network import State

STACKED_TOKENS = 256
"""Chunks up to this many tokens are tapped in all layers at once, which takes a dozen operations in
the place of several a layer; longer ones layer by layer, without a copy of all their states."""


@dataclass(frozen=True)
class Section:
    """Where one group of probes keeps its numbers.

    Attributes:
        group: the probes.
        values: its columns of a token's row: layer by layer, each as wide as the taps.
        state: its columns of a folded state.
        shapes: name -> shape of a tensor of the fold's state, without layer and batch.
    """

    group: Group
    values: slice
    state: slice
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def num_layers(self) -> int:
        """Layers that the group reads."""
        return len(self.group.layers)

    def rows_of(
        self, values: Float[Tensor, "layer batch token tap"]
    ) -> Float[Tensor, "batch token column"]:
        """The group's part of the rows of tokens."""
        return values.permute(1, 2, 0, 3).flatten(2)

    def values_of(
        self, rows: Float[Tensor, "batch token column"]
    ) -> Float[Tensor, "layer batch token tap"]:
        """The values that `rows_of` has laid out."""
        own = rows[..., self.values].unflatten(-1, (self.num_layers, -1))
        return own.permute(2, 0, 1, 3)

    def pack(self, state: State) -> Float[Tensor, "batch column"]:
        """A fold's state, one row a batch row."""
        parts = [state[name].transpose(0, 1).flatten(1) for name in self.shapes]
        return torch.cat(parts, dim=1)

    def unpack(self, packed: Float[Tensor, "batch column"]) -> State:
        """The state that `pack` has laid out; `packed` is of all groups."""
        sizes = [self.num_layers * prod(shape) for shape in self.shapes.values()]
        parts = packed[:, self.state].split(sizes, dim=1)
        return {
            name: part.unflatten(1, (self.num_layers, *shape)).transpose(0, 1)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class Layout:
    """The columns of all probes that ride together.

    Args:
        artefacts: the probes; all tappable, with a state that does not grow with the text.
        device: where the model runs.
        layers: the model's layers that `tap` is given, ascending; None for those that are read.

    Attributes:
        layers: the model's layers that `tap` is given.
        row_floats: fp32 numbers a token.
        state_floats: fp32 numbers a folded state.
        names: probe names, in the order of their columns in `finish`.
        outputs: how many columns each of them has there.

    Raises:
        ConfigError: a probe that cannot be folded by the block, or two of one name.
    """

    def __init__(
        self,
        artefacts: Sequence[Artefact],
        device: torch.device,
        layers: Sequence[int] | None = None,
    ) -> None:
        names = [a.name for a in artefacts]
        if not names or len(set(names)) != len(names):
            raise ConfigError(
                f"Got probes {', '.join(names) or '(none)'}; give one or more of different names."
            )
        for artefact in artefacts:
            check_foldable(artefact)
            if artefact.card.scope != "all":
                raise ConfigError(
                    f"Probe {artefact.name!r} reads the scope {artefact.card.scope!r}, which is "
                    "not followed in vLLM yet; serve a probe of the scope all."
                )
        # fp32 whatever the model's dtype: taps are narrow, and folds need the digits.
        self.sections = list(_sections(group(artefacts, device, torch.float32)))
        self.row_floats = self.sections[-1].values.stop
        self.state_floats = self.sections[-1].state.stop
        read = sorted({i for s in self.sections for i in s.group.layers})
        self.layers = tuple(read if layers is None else layers)
        inside = [a for s in self.sections for a in s.group.artefacts]
        self.artefacts = tuple(inside)
        self.names = tuple(a.name for a in inside)
        self.outputs = tuple(a.card.shape.num_outputs for a in inside)
        self._place = {layer: place for place, layer in enumerate(self.layers)}

    def tap(
        self, hidden: Sequence[Float[Tensor, "chunk dim"]], out: Float[Tensor, "chunk column"]
    ) -> None:
        """Fills the rows of a chunk.

        Args:
            hidden: states of every layer of `layers`, in that order.
            out: where the rows go.
        """
        # Widened once, for products and norms alike.
        every = torch.stack(list(hidden)).float() if len(out) <= STACKED_TOKENS else None
        for section in self.sections:
            places = [self._place[layer] for layer in section.group.layers]
            if every is not None:
                mine = every if len(places) == len(self.layers) else every[places]
                # Tokens as batch rows of one token each: nothing then depends on their number.
                values = section.group.all_values(mine[:, :, None])
                out[:, section.values] = section.rows_of(values)[:, 0]
                continue
            width = section.group.num_values
            for index, place in enumerate(places):
                start = section.values.start + index * width
                states = hidden[place].float()[None]
                section.group.layer_values(index, states, out[None, :, start : start + width])

    def fits(self, other: Layout) -> bool:
        """Whether this can take the place of another: no more columns, no other layers."""
        return (
            self.row_floats <= other.row_floats
            and self.state_floats <= other.state_floats
            and set(self.layers) <= set(other.layers)
        )

    def summarise(
        self, rows: Float[Tensor, "batch token column"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch state"]:
        """The folded state of every row of tokens; of no tokens at all, the neutral one."""
        return torch.cat(
            [s.pack(s.group.fold.summarise(s.values_of(rows), mask)) for s in self.sections], dim=1
        )

    def merge(
        self, first: Float[Tensor, "batch state"], second: Float[Tensor, "batch state"]
    ) -> Float[Tensor, "batch state"]:
        """States of neighbouring pieces of text, merged row by row."""
        return torch.cat(
            [s.pack(s.group.fold.merge(s.unpack(first), s.unpack(second))) for s in self.sections],
            dim=1,
        )

    def finish(self, states: Float[Tensor, "batch state"]) -> Float[Tensor, "batch output"]:
        """Logits of all probes, side by side in the order of `names`."""
        parts = [logits for s in self.sections for logits in s.group.logits(s.unpack(states))]
        return torch.cat(parts, dim=1)

    def neutral(self, device: torch.device) -> Float[Tensor, "1 state"]:
        """The state of no tokens; merging with it changes nothing."""
        rows = torch.zeros(1, 1, self.row_floats, device=device)
        return self.summarise(rows, torch.zeros(1, 1, dtype=torch.bool, device=device))


def check_foldable(artefact: Artefact) -> None:
    """Returns if a probe has a tap and a state of fixed size.

    Raises:
        ConfigError: if it has not, saying why.
    """
    if not artefact.network.tappable:
        raise ConfigError(
            f"Probe {artefact.name!r} ({artefact.card.probe}) is not tappable: it needs whole "
            "hidden states, which do not fit beside the KV cache of vLLM; serve it with pillion's "
            "own engine, or train a gate."
        )
    shapes = [_state_shapes(artefact, num_tokens) for num_tokens in (1, 2)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"Probe {artefact.name!r} ({artefact.card.probe}) keeps values of every token, so a "
            "block of the KV cache cannot be folded; serve it with pillion's own engine, or train "
            "a gate."
        )


def _state_shapes(artefact: Artefact, num_tokens: int) -> dict[str, tuple[int, ...]]:
    tap = artefact.network.tap()
    assert tap is not None
    values = torch.zeros(artefact.card.shape.num_layers, 1, num_tokens, tap.num_values)
    fold = artefact.network.fold_class([artefact.network])
    state = fold.summarise(values, torch.ones(1, num_tokens, dtype=torch.bool))
    return {name: tuple(tensor.shape[2:]) for name, tensor in state.items()}


def _sections(groups: Sequence[Group]) -> Iterator[Section]:
    values = floats = 0
    for one in groups:
        width, device = one.num_values, one.own.device
        empty = torch.zeros(len(one.layers), 1, 1, width, device=device)
        state = one.fold.summarise(empty, torch.ones(1, 1, dtype=torch.bool, device=device))
        shapes = {name: tuple(tensor.shape[2:]) for name, tensor in state.items()}
        more_values = len(one.layers) * width
        more_floats = len(one.layers) * sum(prod(shape) for shape in shapes.values())
        yield Section(
            one,
            slice(values, values + more_values),
            slice(floats, floats + more_floats),
            shapes,
        )
        values, floats = values + more_values, floats + more_floats
