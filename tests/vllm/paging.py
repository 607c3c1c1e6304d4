"""A paged engine's bookkeeping in a few lines: blocks, prefix cache, chunks, preemption.

What vLLM's scheduler does to the positions of requests, without a model: random hidden states that
depend on the text alone stand in for one. Drives a side cache as vLLM would.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from page_cache import PageCache, states
from pillion.core import Tokens
from pillion.probe.group import Group
from pillion.riding.report import Readout
from pillion.vllm.adapter import VllmStepReader
from pillion.vllm.step import DecodeRequests, Span, VllmStep
from pillion.vllm.taps import VllmTaps


@dataclass
class Request:
    id: str
    tokens: list[int]
    prompt: Tokens
    known: int  # tokens that the engine has; the others are its answer to come
    answering: bool = True
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    is_new: bool = True
    is_back: bool = False


class PagedEngine:
    """Runs requests through a side cache in random chunks.

    Args:
        groups: of the probes.
        dim: width of states.
        block_tokens: of a block.
        rng: decides who runs, how far, and who is preempted.
    """

    def __init__(
        self, groups: list[Group], dim: int, block_tokens: int, rng: random.Random
    ) -> None:
        self.dim, self.size, self.rng = dim, block_tokens, rng
        num_blocks = 2000 // block_tokens
        taps = VllmTaps(groups, 512, torch.device("cpu"))
        self.num_layers = len(taps.needs.layers)
        pages = torch.full((num_blocks, taps.needs.page_numbers + 5), torch.nan)
        self.reader = VllmStepReader(taps, pages, block_tokens, max_requests=2)
        self.blocks = PageCache(num_blocks)
        self.live: list[Request] = []
        self.finished: list[str] = []
        self.hits = self.preemptions = 0
        self.reads: dict[Any, dict[str, list[float]]] = {}
        self.lost: dict[str, tuple[str, ...]] = {}

    def add(self, id: str, prompt: Tokens, answer: list[int], answering: bool = True) -> None:
        self.live.append(Request(id, [*prompt, *answer], prompt, len(prompt), answering))

    def run(self) -> None:
        while self.live:
            self.step()

    def step(self) -> None:
        self.rng.shuffle(self.live)
        spans = [self._span(r) for r in self.live if self._may_run(r)]
        finished, self.finished = tuple(self.finished), []
        by_id = {request.id: request for request in self.live}
        work = [(by_id[span.request], span) for span in spans]
        self.rng.shuffle(work)  # the runner's order is not the scheduler's
        self._forward(work)
        if spans:
            for read, numbers in self.reader.read(self._told(spans, finished)).rows():
                self._keep(read, numbers)
            tracked = self.reader.side.tracked
            self.lost |= {span.request: tracked[span.request].lost for span in spans}
        else:
            self.finished = list(finished)
        for request in [r for r in self.live if r.computed == len(r.tokens)]:
            self._release(request)
            self.live.remove(request)
            self.finished.append(request.id)

    def _told(self, spans: list[Span], finished: tuple[str, ...]) -> VllmStep:
        """Single tokens now as spans, now together as vLLM's steps have them."""
        alone = [s.prompt is None and s.end == s.begin + 1 for s in spans]
        if self.rng.random() < 0.3:
            alone = [False] * len(spans)
        single = [span for span, one in zip(spans, alone, strict=True) if one]
        others = [span for span, one in zip(spans, alone, strict=True) if not one]
        self.rng.shuffle(single)
        decodes = DecodeRequests(
            tuple(span.request for span in single),
            np.array([span.begin for span in single], np.int64),
            tuple((i, span.blocks) for i, span in enumerate(single) if span.blocks),
        )
        return VllmStep(tuple(others), finished, decodes=decodes)

    def _may_run(self, request: Request) -> bool:
        if request.blocks and self.rng.random() < 0.1:
            self._release(request)  # it starts again, with all the tokens that it had
            request.is_back = True
            self.preemptions += 1
            return False
        return self.rng.random() < 0.8

    def _forward(self, work: list[tuple[Request, Span]]) -> None:
        hidden = [torch.full((self.num_layers, 3, self.dim), torch.nan)]  # padding, last
        slots = [-1, -1, -1]
        for request, span in work:
            whole = states(self.num_layers, self.dim, request.tokens[: span.end])
            hidden.insert(0, whole[:, span.begin :])
            slots[:0] = [
                request.blocks[i // self.size] * self.size + i % self.size
                for i in range(span.begin, span.end)
            ]
        self.reader.taps.see(list(torch.cat(hidden, 1)), torch.tensor(slots))

    def _keep(self, read: Readout, numbers: dict[str, list[float]]) -> None:
        before = self.reads.setdefault((read.request, read.is_prompt, read.num_tokens), numbers)
        assert before.keys() == numbers.keys()
        for name, logits in numbers.items():  # read again after a preemption
            assert logits == pytest.approx(before[name], rel=1e-4, abs=1e-4)

    def _span(self, request: Request) -> Span:
        starts, had = request.is_new or request.is_back, len(request.blocks)
        if starts:
            self._hit(request)
        begin = request.computed
        end = begin + self.rng.randint(1, min(request.known - begin, 40))
        while len(request.blocks) * self.size < end:
            request.blocks.append(self.blocks.take())
        request.computed, request.is_new, request.is_back = end, False, False
        if end == request.known:
            request.known = min(request.known + 1, len(request.tokens))
        for k in range(begin // self.size, end // self.size):
            self.blocks.cached[tuple(request.tokens[: (k + 1) * self.size])] = request.blocks[k]
        own = request.blocks if starts else request.blocks[had:]
        prompt = request.prompt if starts else None
        return Span(request.id, begin, end, tuple(own), prompt, answering=request.answering)

    def _hit(self, request: Request) -> None:
        """Whole blocks of the prefix cache; one token at least is left to compute."""
        request.computed = 0
        while request.computed + self.size < request.known:
            block = self.blocks.find(request.tokens[: request.computed + self.size])
            if block is None:
                return
            request.blocks.append(block)
            request.computed += self.size
            self.hits += 1

    def _release(self, request: Request) -> None:
        for block in request.blocks:
            self.blocks.drop(block)
        request.blocks = []
