"""Steps of vLLM as a side cache wants them: which tokens belong to which request and page.

vLLM's runner has the tokens of a step in an order of its own; they are found again by their slots.
Nothing here waits for the device. Imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.backends.paged import Chunk, PagedStep
from pillion.probe.group import Group
from pillion.sidecache import PagedGroup, SideCache, page_numbers, upload
from pillion.vllm.report import Read, Report
from pillion.vllm.step import Span, Step
from pillion.vllm.taps import Taps

PIECE_TOKENS = 1024
"""Tokens that are folded in one go: temporary memory stays at some tens of megabytes."""
SLOT_BYTES = 4
"""What a token costs beside its share of its block's state: which token of the step it was."""


@dataclass
class Track:
    """The blocks of a request, in the order of its text, and its prompt's length."""

    blocks: list[int]
    prompt_tokens: int


class Rider:
    """A side cache that rides in vLLM.

    Args:
        taps: that the forward pass fills.
        pages: memory that vLLM gives, a row a block.
        block_tokens: tokens of a block.
        max_requests: requests that usually run together; more make it grow.
        reasoning: tokens around the reasoning in an answer, which scopes leave out.
    """

    def __init__(
        self,
        taps: Taps,
        pages: Float[Tensor, "block number"],
        block_tokens: int,
        max_requests: int,
        reasoning: tuple[int, int] | None = None,
    ) -> None:
        self.taps, self.size, self.max_requests = taps, block_tokens, max_requests
        self._memory, self._num_pages, self._reasoning = pages.view(-1), len(pages), reasoning
        self._find_places()
        self._ride()

    def use(self, groups: list[Group]) -> None:
        """Other probes; only between requests, and with an empty prefix cache."""
        self.taps.use(groups)
        self._ride()

    def sleep(self) -> None:
        """All memory on the device may go from here on, and come back with anything in it."""
        self.side.renew([])

    def wake(self) -> None:
        """The memory is back: pages are cleared as the KV cache was, and requests begin again."""
        self._memory.zero_()

    @property
    def buffer_bytes(self) -> int:
        """Memory beside the pages: the values of a step, and what every row holds."""
        return self.taps.held_bytes + sum(group.row_bytes for group in self.side.groups)

    def read(self, step: Step) -> Report:
        """After the forward pass: keeps its values, reads out what is due."""
        if not self.side.groups:  # the first after a sleep: by now everything is back
            self._find_places()
            self.side.renew(self._paged_groups())
        paged = self._paged(step)
        written = self.taps.slots[: step.num_tokens]
        self._token_of_slot[written] = self._order[: step.num_tokens]
        slots = upload(paged.slots.tolist(), self.taps.device)
        order = self._token_of_slot.index_select(0, slots)
        for group, values in zip(self.side.groups, self.taps.values, strict=True):
            group.values.show(values, order)
        self.side.begin(paged)
        due, heard = self.side.read()
        reads = [Read.of(*one, is_prompt=True) for one in due.prompts]
        reads += [Read.of(*one, is_prompt=False) for one in (*due.answers, *due.tokens)]
        return Report.of(reads, heard)

    # -- inside

    def _find_places(self) -> None:
        device = self.taps.device
        slots = self._num_pages * self.size
        self._token_of_slot = torch.zeros(slots, dtype=torch.int32, device=device)
        self._order = torch.arange(self.taps.max_tokens, dtype=torch.int32, device=device)

    def _ride(self) -> None:
        self.side = SideCache(self._paged_groups(), self.size, self._reasoning, self.max_requests)
        self._tracks = dict[str, Track]()

    def _paged_groups(self) -> list[PagedGroup]:
        begin, paged = 0, list[PagedGroup]()
        for group in self.taps.groups:
            size = page_numbers(group) * self._num_pages
            memory = self._memory[begin : begin + size]
            paged.append(PagedGroup(group, self._num_pages, self.size, memory))
            begin += size
        return paged

    def _paged(self, step: Step) -> PagedStep:
        for request in step.finished:
            self._tracks.pop(request, None)
            self.side.leave(request)
        slots: list[int] = []
        chunks: list[Chunk] = []
        for span in step.spans:
            track = self._follow(span)
            chunks += self._chunks(span, track, first=len(slots))
            slots += self._slots(track, span.begin, span.end)

        def history(index: int) -> Int[Tensor, " past"]:
            chunk = chunks[index]
            return torch.tensor(list(self._slots(self._tracks[chunk.request], 0, chunk.end)))

        told = [token for span in step.spans for token in span.ids]
        ids = torch.tensor(told) if told else torch.full((len(slots),), -1)
        return PagedStep(tuple(chunks), torch.tensor(slots), history, ids)

    def _follow(self, span: Span) -> Track:
        """A request begins, begins again, or goes on."""
        if span.prompt is None:
            track = self._tracks[span.request]
            track.blocks += span.blocks
            return track
        assert span.begin % self.size == 0, "the prefix cache works on whole blocks"
        lane = self.side.lanes.get(span.request)
        if lane is None:
            self.side.enter(span.request, span.prompt, answering=span.answering)
        elif lane.prompt is not None and span.begin <= len(span.prompt):
            # All of its answer runs again: so it does not matter if vLLM has dropped a token.
            self.side.again(span.request, span.prompt)
        track = self._tracks[span.request] = Track(list(span.blocks), len(span.prompt))
        return track

    def _chunks(self, span: Span, track: Track, first: int) -> Iterator[Chunk]:
        """The span in pieces; only the last one may be read out, where it is news."""
        lane = self.side.lanes.get(span.request)
        news = track.prompt_tokens
        if lane is not None and lane.prompt is not None:
            news = max(news + 1, lane.read_tokens)
        for begin in range(span.begin, span.end, PIECE_TOKENS):
            end = min(begin + PIECE_TOKENS, span.end)
            place = first + begin - span.begin
            yield Chunk(span.request, begin, end - begin, place, news <= end == span.end)

    def _slots(self, track: Track, begin: int, end: int) -> Iterator[int]:
        """Places in the KV cache of some tokens of a request."""
        for page in range(begin // self.size, -(-end // self.size)):
            own, start = page * self.size, track.blocks[page] * self.size
            yield from range(start + max(begin - own, 0), start + min(end - own, self.size))
