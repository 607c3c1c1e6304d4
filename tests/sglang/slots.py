"""SGLang's bookkeeping in a few lines: slots, a prefix cache, chunks, requests that are put back.

Random hidden states that depend on the text alone stand in for a model. Drives a
`SglangStepReader` as SGLang's steps would.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from page_cache import PageCache, states
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY
from pillion.riding.turns import PromptTurns
from pillion.sglang.adapter import Row, SglangStepReader


@dataclass
class Request:
    """A request, with the answer that will be drawn."""

    id: str
    told: PromptTurns
    answer: list[int]
    slots: list[int] = field(default_factory=list)
    drawn: int = 0

    @property
    def known(self) -> list[int]:
        return [*self.told.tokens, *self.answer[: self.drawn]]


class SlotEngine:
    """Runs requests through a side cache in random chunks.

    Args:
        probes: that ride.
        shape: layers and width of states.
        page: slots of a page.
        rng: decides who runs, how far, and who is put back.
    """

    def __init__(
        self, probes: Sequence[Artefact], shape: tuple[int, int], page: int, rng: random.Random
    ) -> None:
        self.shape, self.page, self.rng = shape, page, rng
        num_pages = 1600 // page
        self.reader = SglangStepReader(probes, torch.device("cpu"), torch.float32, num_pages, page)
        self.pages = PageCache(num_pages)
        self.live: list[Request] = []
        self.told: dict[str, list[dict[str, Any]]] = {}
        self.hits = self.put_back = self.rewritten = 0

    def add(self, request: Request) -> None:
        self.live.append(request)
        self.told[request.id] = []

    def run(self) -> None:
        while self.live:
            self._step()

    def _step(self) -> None:
        for request in self.live:
            if request.slots and self.rng.random() < 0.05:
                self._release(request)
                self.put_back += 1
        running = [one for one in self.live if self.rng.random() < 0.8]
        self.rng.shuffle(running)
        work = [(one, *self._place(one)) for one in running]
        if not work:
            return
        rows = [Row(one.id, begin, end, one.told) for one, begin, end in work]
        slots = torch.tensor([slot for one, begin, end in work for slot in one.slots[begin:end]])
        ids = torch.tensor([token for one, begin, end in work for token in one.known[begin:end]])
        self.reader.start(rows, slots, lambda i: torch.tensor(work[i][0].slots[: work[i][2]]), ids)
        parts = [states(*self.shape, one.known[:end])[:, begin:] for one, begin, end in work]
        hidden = torch.cat(parts, 1)
        for layer in self.reader.reading.layers:
            self.reader.reading.see(layer, hidden[layer][None])
        step = self.reader.read()
        if self.rng.random() < 0.7:  # SGLang may lose what a step has said
            self.reader.settle(step)
        for one, _, end in work:
            self._end(one, end, step)

    def _place(self, one: Request) -> tuple[int, int]:
        begin = len(one.slots)
        if not begin:
            begin = self._hit(one)
        end = begin + self.rng.randint(1, min(len(one.known) - begin, 40))
        while len(one.slots) < end:
            place = len(one.slots)
            if place % self.page:
                one.slots.append(one.slots[-1] + 1)
            else:
                one.slots.append(self.pages.take() * self.page)
        return begin, end

    def _end(self, one: Request, end: int, step: int) -> None:
        """Full pages are shared from here on; the row of the later request is rewritten."""
        for k in range(end // self.page):
            key, mine = (
                tuple(one.known[: (k + 1) * self.page]),
                one.slots[k * self.page] // self.page,
            )
            other = self.pages.cached.setdefault(key, mine)
            if other != mine:
                self.pages.own(other)
                self.pages.drop(mine)
                begin = other * self.page
                one.slots[k * self.page : (k + 1) * self.page] = range(begin, begin + self.page)
                self.rewritten += 1
        if end < len(one.known):
            return
        self.reader.settle(step)
        self.told[one.id].append(self.reader.latest.params(one.id)[KEY])
        if one.drawn == len(one.answer):
            self._release(one)
            self.live.remove(one)
            self.reader.leave(one.id)
        one.drawn += 1

    def _hit(self, one: Request) -> int:
        """Whole pages of the cache; one token at least is left to compute."""
        begin = 0
        while begin + self.page < len(one.known):
            page = self.pages.find(one.known[: begin + self.page])
            if page is None:
                break
            one.slots += range(page * self.page, (page + 1) * self.page)
            begin += self.page
            self.hits += 1
        return begin

    def _release(self, one: Request) -> None:
        for slot in one.slots[:: self.page]:
            self.pages.drop(slot // self.page)
        one.slots = []
