"""What a step of vLLM computes, as its scheduler tells its workers.

Imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pillion.core import Tokens
from pillion.vllm.turns import Told, told_tokens


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
        answering: whether the prompt is to be answered, or a whole conversation that is only read.
    """

    request: str
    begin: int
    end: int
    blocks: tuple[int, ...] = ()
    prompt: Tokens | None = None
    ids: tuple[int, ...] = ()
    answering: bool = True


@dataclass(frozen=True)
class Step:
    """What a step computes, and who has left since the one before.

    A span may begin behind blocks that spans before it fill.

    Attributes:
        spans: of the requests that are read.
        finished: ids of those that have left.
        unread_tokens: that the step computes of requests that are not read.
    """

    spans: tuple[Span, ...] = ()
    finished: tuple[str, ...] = ()
    unread_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """All that the step computes."""
        return sum(span.end - span.begin for span in self.spans) + self.unread_tokens


class Steps:
    """Makes steps of what a scheduler gives out.

    Args:
        with_ids: whether tokens are told.
    """

    def __init__(self, with_ids: bool) -> None:
        self._with_ids = with_ids
        self._requests: dict[str, Any] = {}
        self._prompts: dict[str, Told] = {}
        self._unread: set[str] = set()
        self._finished: list[str] = []

    def enter(self, request: Any) -> None:
        """A request has come."""
        params = request.sampling_params
        # A prompt of embeddings has no ids; what counts is how many.
        ids = request.prompt_token_ids or [0] * request.num_prompt_tokens
        told = told_tokens(ids, params.extra_args if params else None)
        self._requests[request.request_id], self._prompts[request.request_id] = request, told

    def skip(self, request: str) -> None:
        """A request has come that is not to be read."""
        self._unread.add(request)

    def leave(self, request: str) -> None:
        """A request is over."""
        self._unread.discard(request)
        self._requests.pop(request, None)
        self._prompts.pop(request, None)

    def step(self, output: Any) -> Step:
        """What vLLM's `SchedulerOutput` says."""
        counts: Mapping[str, int] = output.num_scheduled_tokens
        spans = [
            self._span(new.req_id, new.num_computed_tokens, counts, new.block_ids[0], True)
            for new in output.scheduled_new_reqs
            if new.req_id not in self._unread
        ]
        known = output.scheduled_cached_reqs
        for request, begin, blocks in zip(
            known.req_ids, known.num_computed_tokens, known.new_block_ids, strict=True
        ):
            if request in self._unread:
                continue
            again = request in known.resumed_req_ids
            spans.append(self._span(request, begin, counts, blocks[0] if blocks else (), again))
        # In the order in which they were given out: who begins may share what others fill just now.
        places = {request: place for place, request in enumerate(counts)}
        spans.sort(key=lambda span: places[span.request])
        self._finished += output.finished_req_ids
        if not spans:  # workers read nothing then, or are not even asked
            return Step()
        finished, self._finished = self._finished, []
        unread = sum(count for request, count in counts.items() if request in self._unread)
        return Step(tuple(spans), tuple(finished), unread)

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
