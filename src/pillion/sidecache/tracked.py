"""What is known of the requests that an engine runs, one record each.

Knows neither states nor pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pillion.backends.paged import Chunk
from pillion.sidecache.turn_map import TurnMap

Probs = Mapping[str, list[float]]
"""Probabilities by probe; without those that have read no token of their scope."""
Numbers = NDArray[np.int64]
"""Whole numbers of the host, one a token, row or page."""


PIECE_TOKENS = 1024
"""Tokens that are folded in one go: temporary memory stays at some tens of megabytes."""


@dataclass
class TrackedRequest:
    """How far a request has been read.

    Attributes:
        row: its place in the groups.
        turns: of its tokens.
        wanted: whether its verdicts are asked for.
        prompt: what the probes say of it, once it has been read.
        answer: what they say of the answer so far.
        lost: probes that give no verdict of the prompt: the request that filled the shared pages
            had other turns in them.
        read_tokens: tokens that the row's fold has taken in, or has been reset behind.
        fault: what is wrong with the states of the request.
    """

    row: int
    turns: TurnMap
    wanted: bool
    prompt: Probs | None = None
    answer: Probs = field(default_factory=dict[str, list[float]])
    lost: tuple[str, ...] = ()
    read_tokens: int = 0
    fault: str | None = None


@dataclass
class DecodeBatch:
    """Answers that go on by one token: the next that their folds take in.

    Attributes:
        requests: their ids.
        tracked: the record of each.
        rows: of each.
        starts: position of each one's token.
        pages: where it lies in the engine's cache.
        tokens: its place in the step, or its slot where values are shown by slots.
        page_tokens: tokens a page.
        ids: the tokens; none where the step has them among its own.
    """

    requests: Sequence[str]
    tracked: Sequence[TrackedRequest]
    rows: Numbers
    starts: Numbers
    pages: Numbers
    tokens: Numbers
    page_tokens: int
    ids: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def every(self) -> Numbers:
        """Indices of all of them."""
        return np.arange(len(self.requests))

    @cached_property
    def offsets(self) -> Numbers:
        """Place of each token in its page."""
        return self.starts % self.page_tokens

    @cached_property
    def beginning(self) -> list[int]:
        """Which of them begin a page."""
        return np.flatnonzero(self.offsets == 0).tolist()

    @cached_property
    def filling(self) -> list[tuple[int, int, int]]:
        """Which of them fill one: their index, the engine's number of the page, the request's."""
        some = np.flatnonzero(self.offsets == self.page_tokens - 1)
        indices = self.starts[some] // self.page_tokens
        return list(zip(some.tolist(), self.pages[some].tolist(), indices.tolist(), strict=True))


class PendingReadouts(NamedTuple):
    """Requests whose verdicts are due after a step, in this order, and the chunks read of them.

    Attributes:
        prompts: prompts that are now whole.
        answers: answers whose fold was brought up to date by a chunk.
        decodes: answers that went on by one token; None for none.
    """

    prompts: list[tuple[TrackedRequest, Chunk]]
    answers: list[tuple[TrackedRequest, Chunk]]
    decodes: DecodeBatch | None

    @property
    def tracked(self) -> list[TrackedRequest]:
        """Of all of them."""
        found = [tracked for tracked, _ in (*self.prompts, *self.answers)]
        return found if self.decodes is None else [*found, *self.decodes.tracked]

    def chunk(self, index: int) -> Chunk:
        """What the index-th of all has read."""
        chunks = [chunk for _, chunk in (*self.prompts, *self.answers)]
        if index < len(chunks):
            return chunks[index]
        assert self.decodes is not None
        one, decodes = index - len(chunks), self.decodes
        place = int(decodes.tokens[one])
        return Chunk(decodes.requests[one], int(decodes.starts[one]), 1, place, draws=True)


def chunks_of(
    request: str,
    places: range,
    prompt_tokens: int,
    tracked: TrackedRequest | None,
    first: int,
) -> Iterator[Chunk]:
    """Tokens of one request in a step, in pieces of at most `PIECE_TOKENS`.

    Only the last piece may be read out, and only where it ends behind what was read before.

    Args:
        request: its id.
        places: positions of the tokens in the request.
        prompt_tokens: length of its prompt.
        tracked: what is known of it; None if it is new.
        first: place of its first token in the step.
    """
    unread = prompt_tokens
    if tracked is not None and tracked.prompt is not None:
        unread = max(prompt_tokens + 1, tracked.read_tokens)
    for begin in range(places.start, places.stop, PIECE_TOKENS):
        end = min(begin + PIECE_TOKENS, places.stop)
        place = first + begin - places.start
        yield Chunk(request, begin, end - begin, place, unread <= end == places.stop)
