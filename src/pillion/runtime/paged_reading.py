"""Probes on transformers' continuous batching: its steps, shown to the side cache.

Taps what hooks show, and counts the time. Knows neither folds nor pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.backends.paged import PagedStep
from pillion.core import Verdict
from pillion.probe import Artefact
from pillion.probe.group import group
from pillion.probe.network import inverse_rms
from pillion.runtime.held import HeldLayers
from pillion.sidecache import GroupReadout, PagedGroup, PendingReadouts, Probs, SideCache

_Found = TypeVar("_Found")

HELD_STEP_TOKENS = 64
"""Steps up to this many tokens are tapped in one go after the last layer: few large operations in
the place of several a layer, and their states are small."""


class PagedReading:
    """Probes on all requests of an engine. A `PagedWatcher`; for the law see `SideCache`.

    Args:
        artefacts: the probes; their names must differ.
        device: where the model runs.
        dtype: of the model's states.
        num_pages: of the engine's cache.
        page_tokens: tokens a page.
        reasoning: tokens around the reasoning in an answer, which scopes leave out.

    Raises:
        ConfigError: two probes of one name.

    Attributes:
        artefacts: the probes by name.
        side: what is kept of the requests.
        layers: what is read, ascending.
        seconds: time spent here so far.
    """

    def __init__(
        self,
        artefacts: Sequence[Artefact],
        device: torch.device,
        dtype: torch.dtype,
        num_pages: int,
        page_tokens: int,
        reasoning: tuple[int, int] | None = None,
    ) -> None:
        self.artefacts = {a.name: a for a in artefacts}
        groups = group(artefacts, device, dtype)
        paged = [PagedGroup(one, num_pages, page_tokens) for one in groups]
        self.side = SideCache(paged, page_tokens, reasoning)
        self.layers = tuple(sorted({layer for one in self.side.groups for layer in one.layers}))
        self.seconds = 0.0
        self._num_tokens = 0
        self._held = HeldLayers(device, HELD_STEP_TOKENS)

    def start(self, step: PagedStep) -> None:
        """A step begins: drops what the last one held, and tells the side cache."""
        begin = time.perf_counter()
        self._num_tokens = len(step.slots)
        self._held.clear()
        self.side.begin(step)
        self.seconds += time.perf_counter() - begin

    def see(self, layer: int, hidden: Float[Tensor, "1 token dim"]) -> None:
        """Taps a layer; small steps are held until all layers are there."""
        begin = time.perf_counter()
        if self._held.holds(self._num_tokens):
            if self._held.add(layer, hidden):
                self._tap_held()
        else:
            self._tap(layer, hidden)
        self.seconds += time.perf_counter() - begin

    def end(self) -> None:
        """Keeps the values of the step, and reads out what is due."""
        self._after_tapping(self.side.end)

    def read(self) -> tuple[PendingReadouts, list[GroupReadout]]:
        """As `end`, but leaves the logits on the device; see `SideCache.read`."""
        return self._after_tapping(self.side.read)

    def _after_tapping(self, done: Callable[[], _Found]) -> _Found:
        """What is done once all layers have been seen, in the time of probes."""
        begin = time.perf_counter()
        if self._held:
            self._tap_held()
        found = done()
        self.seconds += time.perf_counter() - begin
        return found

    def verdicts(self, probs: Probs | None) -> dict[str, Verdict]:
        """Verdicts of the probabilities of a request, in the order of the probes."""
        known = probs or {}
        return {n: a.verdict(known[n]) for n, a in self.artefacts.items() if n in known}

    def _tap(self, layer: int, hidden: Float[Tensor, "1 token dim"]) -> None:
        busy = [one for one in self.side.groups if not one.idle and layer in one.layers]
        if not busy:
            return
        # Widened and measured once for all groups, as their tokens overlap.
        states = hidden.to(busy[0].group.dtype)
        scale = inverse_rms(states) if any(one.group.normalise for one in busy) else None
        for one in busy:
            one.values.see(layer, states, scale)

    def _tap_held(self) -> None:
        if all(one.idle for one in self.side.groups):
            self._held.clear()
            return
        layers, every = self._held.take()
        for one in self.side.groups:
            if not one.idle:
                one.values.see_all(every, layers)
