"""Networks that are defined by their fold: training and serving run the same lines.

A subclass says which columns it taps, and how values become a state, states one, a state logits.
Knows neither engines nor files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.probe.network import Fold, Network, State, Tap, running, scale_for, values_of
from pillion.probe.tensors import Hidden, Logits, Mask, Scale, Values


class Folded(Network):
    """A network that folds alone, by methods of its own, all of which learn.

    Attributes:
        normalise: whether states are RMS-normalised (no learned scale).
    """

    normalise: bool

    @abstractmethod
    def columns(self) -> tuple[Float[Tensor, "layer dim own"], Float[Tensor, "dim common"]]:
        """What is tapped: columns of each layer's own, and those that all layers share."""

    @abstractmethod
    def summarise(self, values: Values, mask: Mask) -> State:
        """See `Fold.summarise`."""

    @abstractmethod
    def merge(self, first: State, second: State) -> State:
        """See `Fold.merge`."""

    @abstractmethod
    def finish(self, state: State) -> Logits:
        """See `Fold.finish`."""

    def forward(self, hidden: Hidden, mask: Mask, scale: Scale | None = None) -> Logits:
        """Logits by the definition. Wide products run in the dtype of `hidden`, sums in fp32."""
        return self.finish(self.summarise(self._values(hidden, scale), mask))

    def prefix_votes(
        self, hidden: Hidden, mask: Mask, ends: Sequence[int], scale: Scale | None = None
    ) -> Float[Tensor, "member batch prefix output"]:
        """See `Network.prefix_votes`."""
        values = self._values(hidden, scale)

        def summarise(chunk: slice) -> State:
            return self.summarise(values[:, :, chunk], mask[:, chunk])

        states = running(summarise, self.merge, ends)
        return torch.stack([self.finish(state) for state in states], dim=1)[None]

    def _values(self, hidden: Tensor, scale: Tensor | None) -> Values:
        own, shared = self.columns()
        columns = torch.cat([own, shared.expand(len(hidden), -1, -1)], dim=2)
        return values_of(hidden, columns, scale_for(hidden, self.normalise, scale))

    def tap(self) -> Tap:
        """The columns as they are now."""
        own, shared = self.columns()
        return Tap(own.detach(), shared.detach(), self.normalise)


class OwnFold(Fold):
    """The fold of a network that has it in its methods."""

    network: Folded

    @torch.no_grad()
    def summarise(self, values: Values, mask: Mask) -> State:
        """As the network does."""
        return self.network.summarise(values.float(), mask)

    @torch.no_grad()
    def merge(self, first: State, second: State) -> State:
        """As the network does."""
        return self.network.merge(first, second)

    @torch.no_grad()
    def finish(self, state: State) -> Logits:
        """As the network does. An empty row gives the logits of no token."""
        return self.network.finish(state)


Folded.fold_class = OwnFold
