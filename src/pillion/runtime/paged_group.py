"""Values and folds of the probes of one group, for all requests of an engine.

Knows slots and spans of tokens; knows no engine and no verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.backends.paged import PagedStep
from pillion.probe.network import State, join_rows
from pillion.runtime.group import Group
from pillion.runtime.lanes import Lanes


@dataclass(frozen=True)
class Span:
    """Tokens of a request that are to be folded, and the place of its chunk in the step."""

    request: str
    chunk_id: int
    begin: int
    end: int


class PagedGroup:
    """The side cache of one group: a value in every slot, and the fold of every answer.

    Args:
        one: taps and fold.
        num_slots: of the engine's cache.
    """

    def __init__(self, one: Group, num_slots: int) -> None:
        self.group, self.fold = one, one.fold
        self.layers, self.artefacts, self.columns = one.layers, one.artefacts, one.fold.columns
        self._place = {layer: i for i, layer in enumerate(one.layers)}
        device = one.own.device
        self._slots = torch.zeros(len(self.layers), num_slots, one.num_values, device=device)
        self._values = self._slots[:, None, :0]
        self._lanes = Lanes(self.fold, self._slots[:, None, :1])

    @property
    def held_bytes(self) -> int:
        """Memory of taps, slots and lanes, in bytes."""
        slots = self._slots.numel() * self._slots.element_size()
        return self.group.weight_bytes + slots + self._lanes.held_bytes

    # -- in the order of a step

    def forget(self, request: str) -> None:
        """A request is over."""
        self._lanes.forget(request)

    def see(self, layer: int, hidden: Float[Tensor, "1 token dim"]) -> None:
        """Taps one layer of a step."""
        if (place := self._place.get(layer)) is None:
            return
        values = self.group.layer_values(place, hidden)
        if place == 0:
            self._values = values.new_empty(len(self.layers), *values.shape[1:])
        self._values[place] = values[0]

    def see_all(self, every: Float[Tensor, "seen 1 token dim"], layers: tuple[int, ...]) -> None:
        """Taps all layers of a step at once.

        Args:
            every: states of `layers`, which this group's are among.
            layers: which layers they are.
        """
        if layers != self.layers:
            every = every[[layers.index(layer) for layer in self.layers]]
        self._values = self.group.all_values(every)

    def write(self, slots: Int[Tensor, " token"]) -> bool:
        """Puts the step's values into their slots; whether all are finite."""
        self._slots.index_copy_(1, slots, self._values[:, 0])
        return bool(torch.isfinite(self._values.sum()))

    def fault(self, first: int, last: int) -> tuple[int, int] | None:
        """Layer and token of the first value that is not finite among tokens of the step."""
        wrong = ~torch.isfinite(self._values[:, 0, first:last]).all(-1)
        for place, token in wrong.nonzero().tolist()[:1]:
            return self.layers[place], token
        return None

    def fold_prompts(self, step: PagedStep, spans: Sequence[Span]) -> Float[Tensor, "row output"]:
        """Logits of whole spans; their requests' answers begin."""
        for span in spans:
            self._lanes.begin(span.request)
        return self._logits([self._folded(step, span) for span in spans])

    def fold_answers(self, step: PagedStep, spans: Sequence[Span]) -> Float[Tensor, "row output"]:
        """Logits of answers that are folded anew, from their first token."""
        states = [self._folded(step, span) for span in spans]
        for span, state in zip(spans, states, strict=True):
            self._lanes.put(span.request, state)
        return self._logits(states)

    def fold_steps(self, step: PagedStep, spans: Sequence[Span]) -> Float[Tensor, "row output"]:
        """Logits of answers that go on by one token."""
        if not spans:
            return self._logits([])
        places = torch.tensor([step.chunks[span.chunk_id].first for span in spans])
        values = self._values[:, 0].index_select(1, places.to(self._values.device))[:, :, None]
        return self._lanes.advance([span.request for span in spans], values)

    # -- inside

    def _folded(self, step: PagedStep, span: Span) -> State:
        values = self._of_span(step, span)
        mask = torch.ones(1, values.shape[2], dtype=torch.bool, device=values.device)
        return self.fold.summarise(values, mask)

    def _of_span(self, step: PagedStep, span: Span) -> Float[Tensor, "layer 1 token tap"]:
        chunk = step.chunks[span.chunk_id]
        if span.begin >= chunk.start:  # all in this step: no need to look them up
            first = chunk.first + span.begin - chunk.start
            return self._values[:, :, first : first + span.end - span.begin]
        slots = step.history(span.chunk_id)[span.begin : span.end]
        return self._slots.index_select(1, slots)[:, None]

    def _logits(self, states: Sequence[State]) -> Float[Tensor, "row output"]:
        if not states:
            return self._slots.new_zeros(0, self.columns[-1].stop)
        if self._lanes.alike:
            return self.fold.finish(join_rows(states))
        return torch.cat([self.fold.finish(state) for state in states])
