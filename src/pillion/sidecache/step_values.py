"""What was tapped of the tokens of a step, for the probes of one group.

Knows taps, layers and places; neither requests nor folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.probe.group import MOST_CHOSEN, Group
from pillion.sidecache.tracked import Numbers


class StepValues:
    """Values of a step's tokens: tapped here, or tapped elsewhere and shown.

    Args:
        one: the taps.

    Attributes:
        shared: values of every step, [layer, place, tap], where they are tapped elsewhere.
        places: of each slot the place of its values in `shared`; None where it is not.
    """

    shared: Float[Tensor, "layer place tap"]

    def __init__(self, one: Group) -> None:
        self._group = one
        self._place = {layer: i for i, layer in enumerate(one.layers)}
        self._values = one.empty_values(len(one.layers), 1, 0)
        self.places: Int[Tensor, " slot"] | None = None
        self._order: Int[Tensor, " token"] | None = None
        self._places: Int[Tensor, " place"] | None = None
        self._read: Sequence[tuple[int, int]] | None = None
        self._single: Numbers | None = None
        self._chosen: Int[Tensor, " some"] | None = None

    def choose(self, read: Sequence[tuple[int, int]], single: Numbers | None = None) -> None:
        """Says which tokens of the next step are read; without it, all are.

        Args:
            read: where pieces of the step begin, and a bit for each of their tokens.
            single: places of other tokens.
        """
        self._read, self._single = read, single

    def see(
        self,
        layer: int,
        hidden: Float[Tensor, "1 token dim"],
        scale: Float[Tensor, "1 token"] | None = None,
    ) -> None:
        """Taps one layer of a step.

        Args:
            layer: which one.
            hidden: its states.
            scale: `inverse_rms` of the states, if it is known.
        """
        if (place := self._place.get(layer)) is None:
            return
        if place == 0:
            self._begin(hidden.shape[1])
        out = self._values[place]
        if self._chosen is not None:
            hidden, out = hidden.index_select(1, self._chosen), out[:, :-1]
            scale = None if scale is None else scale.index_select(1, self._chosen)
        self._group.layer_values(place, hidden, out, scale)

    def see_all(self, every: Float[Tensor, "seen 1 token dim"], layers: tuple[int, ...]) -> None:
        """Taps several layers of a step at once.

        Args:
            every: states of `layers`.
            layers: which layers they are, all that the group reads or the next ones of them.
        """
        if (found := self._group.own_values(layers, every)) is None:
            return
        own, values = found
        self._order = self._places = None
        first = self._place[own[0]] == 0
        self._values = values if first else torch.cat([self._values, values])

    def share(self, values: Float[Tensor, "layer place tap"], places: Int[Tensor, " slot"]) -> None:
        """Takes the memory into which values of all steps are tapped elsewhere.

        Args:
            values: of the group's layers.
            places: of each slot of the engine's cache, the place of its values; single tokens are
                named by their slots then.
        """
        self.shared, self.places = values, places
        self._values, self._places = values[:, None], places

    def show(self, order: Int[Tensor, " token"]) -> None:
        """Takes the values of a step from the shared memory: of each of its chunks' tokens one."""
        self._order = order

    def between(self, begin: int, end: int) -> Float[Tensor, "layer 1 token tap"]:
        """Of neighbouring tokens of the step."""
        if self._order is None:
            return self._values[:, :, begin:end]
        return self._values.index_select(2, self._order[begin:end])

    def at(self, tokens: Int[Tensor, " token"]) -> Float[Tensor, "layer token tap"]:
        """Of some tokens of the step."""
        places = tokens if self._places is None else self._places.index_select(0, tokens)
        return self._values[:, 0].index_select(1, places)

    # -- inside

    def _begin(self, num_tokens: int) -> None:
        """Room for a step; those of its tokens that are not read share a place of zeros."""
        self._order = self._places = self._chosen = None
        num_layers, tokens = len(self._place), None
        if self._read is not None:
            tokens = list(_places(self._read))
            tokens += [] if self._single is None else self._single.tolist()
        if tokens is None or len(tokens) > MOST_CHOSEN * num_tokens:
            self._values = self._group.empty_values(num_layers, 1, num_tokens)
            return
        self._values = self._group.empty_values(num_layers, 1, len(tokens) + 1)
        self._values[:, :, -1] = 0
        device = self._values.device
        self._chosen = torch.tensor(tokens, dtype=torch.long, device=device)
        self._order = self._chosen.new_full((num_tokens,), len(tokens))
        self._order[self._chosen] = torch.arange(len(tokens), device=device)
        self._places = self._order


def _places(read: Sequence[tuple[int, int]]) -> Iterator[int]:
    for first, bits in read:
        while bits:
            lowest = bits & -bits
            yield first + lowest.bit_length() - 1
            bits ^= lowest
