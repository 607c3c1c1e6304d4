"""What a step of vLLM computes, as its scheduler tells its workers.

Imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pillion.core import Tokens
from pillion.riding.turns import PromptTurns, prompt_turns


@dataclass(frozen=True)
class Span:
    """The tokens of one request that a step computes.

    Attributes:
        request: its id.
        begin: first position.
        end: position after the last.
        blocks: block ids that the request got since its last span; all of them if it begins.
        prompt: of a request that begins, or begins again after it was preempted; the `begin`
            tokens before the span then came from the prefix cache.
        ids: the tokens, where answers may hold reasoning; none otherwise.
        answering: whether an answer follows, or a whole conversation is only read.
    """

    request: str
    begin: int
    end: int
    blocks: tuple[int, ...] = ()
    prompt: Tokens | None = None
    ids: tuple[int, ...] = ()
    answering: bool = True


@dataclass(frozen=True)
class DecodeRequests:
    """Requests that go on by one token: no object each, as most steps are many of them.

    Attributes:
        requests: their ids.
        begins: position of each one's token.
        blocks: (index, block ids) of those that got blocks since their last span.
        ids: the tokens, where answers may hold reasoning; none otherwise.
    """

    requests: tuple[str, ...] = ()
    begins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    blocks: tuple[tuple[int, tuple[int, ...]], ...] = ()
    ids: tuple[int, ...] = ()

    def span(self, index: int) -> Span:
        """One of them, whose blocks are known already."""
        begin = int(self.begins[index])
        return Span(self.requests[index], begin, begin + 1, ids=self.ids[index : index + 1])


@dataclass(frozen=True)
class VllmStep:
    """What a step computes, and which requests have left since the step before.

    A span may begin behind blocks that `decodes` and spans before it fill.

    Attributes:
        spans: of the requests that are read, but for those in `decodes`.
        finished: ids of those that have left.
        unread_tokens: that the step computes of requests that are not read.
        decodes: requests that are read and go on by one token.
    """

    spans: tuple[Span, ...] = ()
    finished: tuple[str, ...] = ()
    unread_tokens: int = 0
    decodes: DecodeRequests = DecodeRequests()

    @property
    def num_tokens(self) -> int:
        """All that the step computes."""
        read = sum(span.end - span.begin for span in self.spans) + len(self.decodes.requests)
        return read + self.unread_tokens

    @property
    def is_read(self) -> bool:
        """Whether the step computes anything that is read."""
        return bool(self.spans or self.decodes.requests)


class StepBuilder:
    """Makes steps of what a scheduler gives out.

    Args:
        with_ids: whether tokens are told.
    """

    def __init__(self, with_ids: bool) -> None:
        self._with_ids = with_ids
        self._requests: dict[str, Any] = {}
        self._prompts: dict[str, PromptTurns] = {}
        self._unread: set[str] = set()
        self._finished: list[str] = []

    def enter(self, request: Any) -> None:
        """A request has come."""
        params = request.sampling_params
        # A prompt of embeddings has no ids; what counts is how many.
        ids = request.prompt_token_ids or [0] * request.num_prompt_tokens
        told = prompt_turns(ids, params.extra_args if params else None)
        self._requests[request.request_id], self._prompts[request.request_id] = request, told

    def skip(self, request: str) -> None:
        """A request has come that is not to be read."""
        self._unread.add(request)

    def leave(self, request: str) -> None:
        """A request is over."""
        self._unread.discard(request)
        self._requests.pop(request, None)
        self._prompts.pop(request, None)

    def step(self, output: Any) -> VllmStep:
        """What vLLM's `SchedulerOutput` says."""
        counts: Mapping[str, int] = output.num_scheduled_tokens
        spans = [
            self._span(new.req_id, new.num_computed_tokens, counts, new.block_ids[0], True)
            for new in output.scheduled_new_reqs
            if new.req_id not in self._unread
        ]
        known = output.scheduled_cached_reqs
        others, decodes = list(range(len(known.req_ids))), DecodeRequests()
        if known.req_ids:
            others, decodes = self._split(known, counts)
        for index in others:
            request, blocks = known.req_ids[index], known.new_block_ids[index]
            begin, again = known.num_computed_tokens[index], request in known.resumed_req_ids
            spans.append(self._span(request, begin, counts, blocks[0] if blocks else (), again))
        if len(spans) > 1:
            # In the scheduler's order: a request that begins may share blocks that others fill now.
            places = {request: place for place, request in enumerate(counts)}
            spans.sort(key=lambda span: places[span.request])
        self._finished += output.finished_req_ids
        if not spans and not decodes.requests:  # workers read nothing then, or are not even asked
            return VllmStep()
        finished, self._finished = self._finished, []
        unread = 0
        if self._unread:
            unread = sum(count for request, count in counts.items() if request in self._unread)
        return VllmStep(tuple(spans), tuple(finished), unread, decodes)

    def _split(self, known: Any, counts: Mapping[str, int]) -> tuple[list[int], DecodeRequests]:
        """Indices of running requests that do not compute one token; the requests that do."""
        ids, again = known.req_ids, known.resumed_req_ids
        single = [count == 1 for count in map(counts.__getitem__, ids)]
        if self._unread or again:
            apart = self._unread | set(again)
            each = zip(single, ids, strict=True)
            single = [one and request not in apart for one, request in each]
        others = [] if all(single) else [i for i, one in enumerate(single) if not one]
        read = [i for i in others if ids[i] not in self._unread]
        begins, given = known.num_computed_tokens, known.new_block_ids
        if others:
            some = [i for i, one in enumerate(single) if one]
            ids, begins, given = ([every[i] for i in some] for every in (ids, begins, given))
        blocks = tuple([(i, tuple(own[0])) for i, own in enumerate(given) if own])
        told: tuple[int, ...] = ()
        if self._with_ids:
            each = zip(ids, begins, strict=True)
            told = tuple(self._requests[request].all_token_ids[begin] for request, begin in each)
        return read, DecodeRequests(tuple(ids), np.array(begins, np.int64), blocks, told)

    def _span(
        self,
        request: str,
        begin: int,
        counts: Mapping[str, int],
        blocks: Sequence[int],
        begins: bool,
    ) -> Span:
        end = begin + counts[request]
        ids = self._requests[request].all_token_ids[begin:end] if self._with_ids else ()
        span = Span(request, begin, end, tuple(blocks), ids=tuple(ids))
        if not begins:
            return span
        told = self._prompts[request]
        return replace(span, prompt=told.tokens, answering=told.answering)
