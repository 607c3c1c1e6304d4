"""Steps of vLLM as a side cache wants them: which tokens belong to which request and page.

vLLM's runner has the tokens of a step in an order of its own; they are found again by their slots.
Nothing here waits for the device. Imports no vLLM.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.backends.paged import Chunk, PagedStep
from pillion.probe.group import Group
from pillion.riding.report import Report
from pillion.sidecache import DecodeBatch, Numbers, PagedGroup, SideCache, page_numbers, upload
from pillion.sidecache.tracked import chunks_of
from pillion.vllm.decode_slots import DecodeSlots, RequestBlocks
from pillion.vllm.step import Span, VllmStep
from pillion.vllm.taps import VllmTaps

SLOT_BYTES = 4
"""What a token costs beside its share of its block's state: which token of the step it was."""


NO_CHUNKS = PagedStep(
    (), torch.zeros(0, dtype=torch.long), lambda _: torch.zeros(0), torch.zeros(0, dtype=torch.long)
)
"""A step of nothing but answers that go on."""


class VllmStepReader:
    """Reads the steps of vLLM into a side cache.

    Args:
        taps: that the forward pass fills.
        pages: memory that vLLM gives, a row a block.
        block_tokens: tokens of a block.
        max_requests: requests that usually run together; more make it grow.
        reasoning: tokens around the reasoning in an answer, which scopes leave out.
    """

    def __init__(
        self,
        taps: VllmTaps,
        pages: Float[Tensor, "block number"],
        block_tokens: int,
        max_requests: int,
        reasoning: tuple[int, int] | None = None,
    ) -> None:
        self.taps, self.size, self.max_requests = taps, block_tokens, max_requests
        self._memory, self._num_pages, self._reasoning = pages.view(-1), len(pages), reasoning
        self._find_places()
        self._make_side_cache()

    def use(self, groups: list[Group]) -> None:
        """Other probes; only between requests, and with an empty prefix cache."""
        self.taps.use(groups)
        self._make_side_cache()

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

    def read(self, step: VllmStep) -> Report:
        """After the forward pass: keeps its values, reads out what is due."""
        if not self.side.groups:  # the first after a sleep: by now everything is back
            self._find_places()
            self.side.renew(self._paged_groups())
            self._decode_slots = DecodeSlots(self.size)
        paged, decodes = self._paged(step)
        if (num_tokens := step.num_tokens) != len(self._written[0]):
            self._written = self.taps.slots[:num_tokens], self._order[:num_tokens]
        self._token_of_slot.index_copy_(0, *self._written)
        if paged.chunks:
            slots = upload(paged.slots.numpy(), self.taps.device)
            order = self._token_of_slot.index_select(0, slots)
            for group in self.side.groups:
                group.values.show(order)
        self.side.begin(paged, decodes)
        return Report.of(*self.side.read())

    # -- inside

    def _find_places(self) -> None:
        device = self.taps.device
        slots = self._num_pages * self.size
        self._token_of_slot = torch.zeros(slots, dtype=torch.int32, device=device)
        self._order = torch.arange(self.taps.max_tokens, dtype=torch.int32, device=device)
        self._written = self.taps.slots[:0], self._order[:0]

    def _make_side_cache(self) -> None:
        self.side = SideCache(self._paged_groups(), self.size, self._reasoning, self.max_requests)
        self._blocks, self._decode_slots = dict[str, RequestBlocks](), DecodeSlots(self.size)

    def _paged_groups(self) -> list[PagedGroup]:
        begin, paged = 0, list[PagedGroup]()
        for group in self.taps.groups:
            size = page_numbers(group) * self._num_pages
            memory = self._memory[begin : begin + size]
            paged.append(PagedGroup(group, self._num_pages, self.size, memory))
            begin += size
        for one, values in zip(paged, self.taps.values, strict=True):
            one.values.share(values, self._token_of_slot)
        return paged

    def _paged(self, step: VllmStep) -> tuple[PagedStep, DecodeBatch]:
        """The chunks of a step, and the answers that go on by one token."""
        for request in step.finished:
            self._blocks.pop(request, None)
            self.side.leave(request)
        single = step.decodes
        for index, blocks in single.blocks:
            self._blocks[single.requests[index]].blocks += blocks
        decodes, others = self._decode_slots.find(single, self.side.tracked, self._blocks)
        spans = [*(single.span(index) for index in others), *step.spans]
        if not spans:
            return NO_CHUNKS, decodes
        num_tokens, slots = 0, [decodes.tokens[:0]]
        chunks: list[Chunk] = []
        for span in spans:
            known = self._follow(span)
            tracked, places = self.side.tracked.get(span.request), range(span.begin, span.end)
            chunks += chunks_of(span.request, places, known.prompt_tokens, tracked, num_tokens)
            slots.append(self._slots(known, span.begin, span.end))
            num_tokens += span.end - span.begin

        def history(index: int) -> Int[Tensor, " past"]:
            chunk = chunks[index]
            return torch.from_numpy(self._slots(self._blocks[chunk.request], 0, chunk.end))

        ids = torch.tensor([token for span in spans for token in span.ids] or [-1] * num_tokens)
        every = torch.from_numpy(np.concatenate(slots))
        return PagedStep(tuple(chunks), every, history, ids), decodes

    def _follow(self, span: Span) -> RequestBlocks:
        """A request begins, begins again, or goes on."""
        if span.prompt is None:
            known = self._blocks[span.request]
            known.blocks += span.blocks
            return known
        assert span.begin % self.size == 0, "the prefix cache works on whole blocks"
        tracked = self.side.tracked.get(span.request)
        if tracked is None:
            self.side.enter(span.request, span.prompt, answering=span.answering)
        elif tracked.prompt is not None and span.begin <= len(span.prompt):
            # All of its answer runs again: so it does not matter if vLLM has dropped a token.
            self.side.again(span.request, span.prompt)
        known = self._blocks[span.request] = RequestBlocks(list(span.blocks), len(span.prompt))
        return known

    def _slots(self, known: RequestBlocks, begin: int, end: int) -> Numbers:
        """Places in the KV cache of some tokens of a request."""
        first = begin // self.size
        blocks = np.array(known.blocks[first : -(-end // self.size)], np.int64)
        places = np.arange(begin, end)
        return blocks[places // self.size - first] * self.size + places % self.size
