"""A paged engine's bookkeeping in a few lines: blocks, prefix cache, chunks, preemption.

What vLLM's scheduler does to the positions of requests, without a model: random hidden states that
depend on the text alone stand in for one. Drives a side cache as vLLM would.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pillion.vllm.layout import Layout
from pillion.vllm.plan import Read, Span, Step, Tracker
from pillion.vllm.side_cache import SideCache


@dataclass
class Request:
    id: str
    tokens: list[int]
    prompt_tokens: int
    known: int  # tokens that the engine has; the others are its answer to come
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    is_new: bool = True
    is_back: bool = False


@functools.cache
def _state(layers: int, dim: int, text: tuple[int, ...]) -> Tensor:
    noise = torch.Generator().manual_seed(hash(text) % 2**31)
    return torch.randn(layers, dim, generator=noise)


def states(layout: Layout, tokens: list[int], dim: int) -> Tensor:
    """[layer, token, dim]: each of the text up to its token, as a causal model's would be."""
    ends = range(1, len(tokens) + 1)
    return torch.stack([_state(len(layout.layers), dim, tuple(tokens[:n])) for n in ends], 1)


class PagedEngine:
    """Runs requests through a side cache in random chunks.

    Args:
        layout: of the side cache.
        dim: width of states.
        block_tokens: of a block.
        rng: decides who runs, how far, and who is preempted.
    """

    def __init__(self, layout: Layout, dim: int, block_tokens: int, rng: random.Random) -> None:
        self.layout, self.dim, self.size, self.rng = layout, dim, block_tokens, rng
        num_blocks = 2000 // block_tokens
        self.side = SideCache(layout, 512, max_requests=2, device=torch.device("cpu"))
        pages = torch.full((num_blocks, layout.state_floats + 5), torch.nan)
        self.side.bind(pages, block_tokens)
        self.tracker = Tracker(block_tokens)
        self.free = list(range(1, num_blocks))
        self.owners: dict[int, int] = {}
        self.cached: dict[tuple[int, ...], int] = {}
        self.live: list[Request] = []
        self.finished: list[str] = []
        self.hits = self.preemptions = 0
        self.reads: dict[tuple[str, bool, int], Tensor] = {}

    def add(self, id: str, tokens: list[int], prompt_tokens: int) -> None:
        self.live.append(Request(id, tokens, prompt_tokens, known=prompt_tokens))

    def run(self) -> None:
        while self.live:
            self.step()

    def step(self) -> None:
        self.rng.shuffle(self.live)
        spans = [self._span(r) for r in self.live if self._may_run(r)]
        finished, self.finished = tuple(self.finished), []
        by_id = {request.id: request for request in self.live}
        self._forward([(by_id[span.request], span) for span in spans])
        self.rng.shuffle(spans)  # the runner's order is not the scheduler's
        plan = self.tracker.plan(Step(tuple(spans), finished))
        self.side.absorb(plan, self.tracker.num_lanes)
        for read, row in zip(plan.reads, self.side.read(plan), strict=True):
            self._keep(read, row)
        for request in [r for r in self.live if r.computed == len(r.tokens)]:
            self._release(request)
            self.live.remove(request)
            self.finished.append(request.id)

    def _may_run(self, request: Request) -> bool:
        if request.blocks and self.rng.random() < 0.1:
            self._release(request)  # it starts again, with all the tokens that it had
            request.is_back = True
            self.preemptions += 1
            return False
        return self.rng.random() < 0.8

    def _forward(self, work: list[tuple[Request, Span]]) -> None:
        hidden = [torch.full((len(self.layout.layers), 3, self.dim), torch.nan)]  # padding, last
        slots = [-1, -1, -1]
        for request, span in reversed(work):
            whole = states(self.layout, request.tokens[: span.end], self.dim)
            hidden.insert(0, whole[:, span.begin :])
            slots[:0] = [
                request.blocks[i // self.size] * self.size + i % self.size
                for i in range(span.begin, span.end)
            ]
        self.side.see(list(torch.cat(hidden, 1)), torch.tensor(slots))

    def _keep(self, read: Read, row: Tensor) -> None:
        key = (read.request, read.is_prompt, read.num_tokens)
        if key in self.reads:  # read again after a preemption
            torch.testing.assert_close(self.reads[key], row, rtol=1e-4, atol=1e-4)
        self.reads[key] = row.clone()

    def _span(self, request: Request) -> Span:
        starts, had = request.is_new or request.is_back, len(request.blocks)
        if starts:
            self._hit(request)
        begin = request.computed
        end = begin + self.rng.randint(1, min(request.known - begin, 40))
        while len(request.blocks) * self.size < end:
            request.blocks.append(self._take())
        request.computed, request.is_new, request.is_back = end, False, False
        if end == request.known:
            request.known = min(request.known + 1, len(request.tokens))
        for k in range(begin // self.size, end // self.size):
            self.cached[tuple(request.tokens[: (k + 1) * self.size])] = request.blocks[k]
        own = request.blocks if starts else request.blocks[had:]
        return Span(request.id, begin, end, tuple(own), starts, request.prompt_tokens * starts)

    def _hit(self, request: Request) -> None:
        """Whole blocks of the prefix cache; one token at least is left to compute."""
        request.computed = 0
        while request.computed + self.size < request.known:
            block = self.cached.get(tuple(request.tokens[: request.computed + self.size]))
            if block is None:
                return
            if block in self.free:
                self.free.remove(block)
            self.owners[block] = self.owners.get(block, 0) + 1
            request.blocks.append(block)
            request.computed += self.size
            self.hits += 1

    def _take(self) -> int:
        block = self.free.pop(0)
        for key, value in list(self.cached.items()):
            if value == block:
                del self.cached[key]
        self.owners[block] = 1
        return block

    def _release(self, request: Request) -> None:
        for block in request.blocks:
            self.owners[block] -= 1
            if not self.owners[block]:
                self.free.append(block)
        request.blocks = []
