"""Follows many requests through an engine with a paged cache: the probes' own little KV cache.

What the probes keep of a token lies where the engine keeps its keys and values: in the same page.
So what a request shares with others, gets again after it was put back, or reads in chunks is there
for the probes too. Prompts are folded as they are read; an answer's fold goes on token by token.
Knows no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pillion.backends.paged import Chunk, PagedStep
from pillion.core import ANSWER_SCOPES, Tokens
from pillion.sidecache.decode_reader import DecodeReader, DecodeReadout
from pillion.sidecache.paged_group import PagedGroup
from pillion.sidecache.tracked import DecodeBatch, PendingReadouts, TrackedRequest
from pillion.sidecache.turn_map import TurnMap


class GroupReadout(NamedTuple):
    """Logits of the probes of a group after a step.

    Attributes:
        group: the group.
        indices: the request of each row: its place in `PendingReadouts.tracked`.
        logits: of all probes of the group, still on the device.
    """

    group: PagedGroup
    indices: Sequence[int]
    logits: Float[Tensor, "row output"]


class SideCache:
    """Probes on all requests of an engine.

    Law: the verdict of a request equals the fold of its own tokens in the probe's scope alone,
    whatever else runs, in whatever chunks, from shared pages or not, begun again or not.

    Args:
        groups: probes that share taps and a fold.
        page_tokens: tokens a page.
        reasoning: tokens around the reasoning in an answer, which scopes leave out.
        num_rows: requests that there is room for from the start; more make it grow.

    Attributes:
        groups: as given.
        decode_reader: reads the answers that go on by one token.
        tracked: the requests that it follows, by id.
    """

    def __init__(
        self,
        groups: Sequence[PagedGroup],
        page_tokens: int,
        reasoning: tuple[int, int] | None = None,
        num_rows: int = 0,
    ) -> None:
        self.page_tokens, self._reasoning = page_tokens, reasoning
        self.groups = list(groups)
        self.decode_reader = DecodeReader(groups)
        self.tracked: dict[str, TrackedRequest] = {}
        self._entered: dict[str, tuple[TurnMap, bool]] = {}
        self._left: set[str] = set()
        self._free: list[int] = []
        self._num_rows = 0
        self._pages: list[int] = []
        self._step: PagedStep | None = None
        self._decodes: DecodeBatch | None = None
        self._longer: list[int] = []
        self._make_room(num_rows)

    def renew(self, groups: Sequence[PagedGroup]) -> None:
        """Takes groups of the same probes that hold nothing yet, as no page of the engine does.

        The engine runs all requests again, from their first token on.
        """
        self.groups = list(groups)
        self.decode_reader = DecodeReader(groups)
        for one in self.groups:
            one.make_room(self._num_rows)

    @property
    def held_bytes(self) -> int:
        """Memory of taps, pages and rows, in bytes."""
        return sum(one.held_bytes for one in self.groups)

    def enter(
        self, request: str, tokens: Tokens, wanted: bool = True, answering: bool = True
    ) -> None:
        """A request will run.

        Args:
            request: its id.
            tokens: its prompt.
            wanted: whether its verdicts are; if not, others still get the pages that it fills.
            answering: whether an answer follows; if not, probes of answers read the last one in it.
        """
        turns = TurnMap(tokens, self.page_tokens, self._reasoning, answering)
        self._entered[request] = turns, wanted

    def leave(self, request: str) -> None:
        """A request is over; a step with it may be on its way, in another thread."""
        self._left.add(request)

    # -- in the order of a step

    def begin(self, step: PagedStep, decodes: DecodeBatch | None = None) -> None:
        """A step begins: which requests run, and which groups have something to read.

        Args:
            step: its chunks.
            decodes: answers that go on by one token and are no chunks of the step; None to find
                them among the chunks.
        """
        self._step = step
        if self._left:
            self._drop_left(step, decodes)
        for chunk in step.chunks:
            if chunk.request not in self.tracked:
                unknown = TurnMap(None, self.page_tokens), False
                entered = self._entered.get(chunk.request, unknown)
                self.tracked[chunk.request] = TrackedRequest(self._new_row(), *entered)
        self._pages = (step.slots // self.page_tokens).tolist() if step.chunks else []
        self._longer, self._decodes = list(range(len(step.chunks))), decodes
        if decodes is None:
            self._split(step)
        chunks = [step.chunks[index] for index in self._longer]
        turn_maps = [self.tracked[chunk.request].turns for chunk in chunks]
        if self._reasoning is not None and any(one.scope in ANSWER_SCOPES for one in self.groups):
            self._extend_turns(step, chunks)
        for one in self.groups:
            one.begin(chunks, turn_maps, self._decodes)

    def end(self) -> None:
        """The groups have seen all layers: keeps what was computed, and reads out what is due."""
        pending, every = self.read()
        for readout in every:
            self._store(pending, readout)

    def again(self, request: str, tokens: Tokens) -> None:
        """An answer that was put back runs again from its first token on, and is read anew."""
        tracked = self.tracked[request]
        answering = tracked.turns.answering
        tracked.turns = TurnMap(tokens, self.page_tokens, self._reasoning, answering)
        tracked.read_tokens = tracked.turns.prompt_tokens
        for one in self.groups:
            one.reset(tracked.row)

    def read(self) -> tuple[PendingReadouts, list[GroupReadout]]:
        """Keeps what was computed, and reads out what is due, without waiting for the device.

        Returns:
            the read-outs that are pending, and the logits of each group for them.
        """
        step, self._step = self._step, None
        assert step is not None
        pending, tokens = PendingReadouts([], [], self._decodes or None), list[DecodeReadout]()
        # First: a request that begins in this step may share the pages that these tokens fill.
        if self._decodes:
            tokens = self.decode_reader.read(self._decodes)
            ends = (self._decodes.starts + 1).tolist()
            for tracked, end in zip(self._decodes.tracked, ends, strict=True):
                tracked.read_tokens = end
        for index in self._longer:
            chunk = step.chunks[index]
            tracked = self.tracked[chunk.request]
            self._take(step, index, tracked)
            if chunk.draws and tracked.wanted:
                answers = pending.prompts if tracked.prompt is None else pending.answers
                answers.append((tracked, chunk))
        readouts, before = self._read_chunks(pending), len(pending.prompts) + len(pending.answers)
        readouts += [
            GroupReadout(one, (answers + before).tolist(), logits)
            for one, answers, logits in tokens
        ]
        return pending, readouts

    # -- inside

    def _drop_left(self, step: PagedStep, decodes: DecodeBatch | None) -> None:
        """Drops requests that have left; one in the step still fills pages that others may get."""
        running = {chunk.request for chunk in step.chunks}
        running |= set(() if decodes is None else decodes.requests)
        for request in self._left - running:
            self._left.discard(request)
            self._entered.pop(request, None)
            if (tracked := self.tracked.pop(request, None)) is not None:
                self._free.append(tracked.row)

    def _split(self, step: PagedStep) -> None:
        """Finds the single tokens of answers, which go together, among the chunks."""
        requests = [self.tracked[chunk.request] for chunk in step.chunks]
        single = [
            chunk.num_tokens == 1 and one.prompt is not None and chunk.start == one.read_tokens
            for chunk, one in zip(step.chunks, requests, strict=True)
        ]
        self._longer = [index for index, is_single in enumerate(single) if not is_single]
        if len(self._longer) == len(requests):
            return
        some = [index for index, is_single in enumerate(single) if is_single]
        chunks = [step.chunks[index] for index in some]
        places = [chunk.first for chunk in chunks]
        self._decodes = DecodeBatch(
            [chunk.request for chunk in chunks],
            [requests[index] for index in some],
            np.array([requests[index].row for index in some]),
            np.array([chunk.start for chunk in chunks]),
            np.array([self._pages[place] for place in places]),
            np.array(places),
            self.page_tokens,
        )

    def _extend_turns(self, step: PagedStep, chunks: Sequence[Chunk]) -> None:
        """Gives the turn maps the tokens that run, for answers may hold reasoning."""
        ids = step.ids.tolist()
        for chunk in chunks:
            turns = self.tracked[chunk.request].turns
            turns.extend(chunk.start, ids[chunk.first : chunk.first + chunk.num_tokens])
        if (decodes := self._decodes) is not None:
            tokens = decodes.ids or [ids[place] for place in decodes.tokens.tolist()]
            starts = decodes.starts.tolist()
            for tracked, start, token in zip(decodes.tracked, starts, tokens, strict=True):
                tracked.turns.extend(start, [token])

    def _take(self, step: PagedStep, index: int, tracked: TrackedRequest) -> None:
        chunk = step.chunks[index]
        pages = self._pages[chunk.first : chunk.first + chunk.num_tokens]
        begins = chunk.start != tracked.read_tokens or not chunk.start
        if tracked.wanted and tracked.prompt is None and begins:
            self._restart(step, index, tracked)
        skip = min(tracked.read_tokens - chunk.start, chunk.num_tokens) if tracked.wanted else None
        assert skip is None or skip >= 0, "a prefix of an answer was cached before it was read"
        for one in self.groups:
            one.take(tracked.row, chunk, pages, tracked.turns, skip)
        tracked.read_tokens = max(tracked.read_tokens, chunk.end)

    def _restart(self, step: PagedStep, index: int, tracked: TrackedRequest) -> None:
        """The folds of the request are those of the pages that its prompt was given."""
        start, size = step.chunks[index].start, self.page_tokens
        shared = (step.history(index)[:start:size] // size).tolist() if start else []
        lost = [one for one in self.groups if not one.restart(tracked.row, shared, tracked.turns)]
        tracked.lost = tuple(a.name for one in lost for a in one.artefacts)
        tracked.read_tokens = start

    def _read_chunks(self, pending: PendingReadouts) -> list[GroupReadout]:
        """Reads out the chunks whose verdicts are due."""
        found: list[GroupReadout] = []
        for tracked, _ in pending.prompts:
            tracked.prompt = {}
        for one in self.groups:
            indices = [
                index
                for index, (tracked, _) in enumerate(pending.prompts)
                if tracked.turns.has(one.scope) and one.artefacts[0].name not in tracked.lost
            ]
            indices += [
                index
                for index, (tracked, chunk) in enumerate(pending.answers, len(pending.prompts))
                if tracked.turns.bits(one.scope, tracked.turns.prompt_tokens, chunk.end)
            ]
            if indices:
                rows = [(*pending.prompts, *pending.answers)[index][0].row for index in indices]
                found.append(GroupReadout(one, indices, one.logits(rows)))
        for tracked, _ in pending.prompts:  # what follows is the answer
            for one in self.groups:
                one.reset(tracked.row)
        return found

    def _store(self, pending: PendingReadouts, readout: GroupReadout) -> None:
        """Gives the requests the probabilities of a group's probes."""
        one, requests = readout.group, pending.tracked
        # Of logits: infinite ones are probabilities of 0 and 1.
        sound = readout.logits.isfinite().all(1).tolist()
        named = [
            (artefact.name, artefact.probabilities(readout.logits[:, columns]).tolist())
            for artefact, columns in zip(one.artefacts, one.columns, strict=True)
        ]
        for place, index in enumerate(readout.indices):
            tracked = requests[index]
            numbers = {name: rows[place] for name, rows in named}
            if not sound[place]:
                tracked.fault = tracked.fault or self._fault(pending.chunk(index))
            elif index < len(pending.prompts):
                tracked.prompt = {**(tracked.prompt or {}), **numbers}
            else:  # a new mapping: a caller may still read the one before
                tracked.answer = {**tracked.answer, **numbers}

    def _fault(self, chunk: Chunk) -> str:
        found = next(filter(None, (one.fault(chunk) for one in self.groups)), None)
        layer, token = found or (None, None)
        where = "" if token is None else f" of layer {layer} at token {chunk.start + token}"
        return (
            f"Hidden states{where} are not finite: the model gave NaN or infinity. Load the "
            "model in another dtype (float32 or bfloat16)."
        )

    def _new_row(self) -> int:
        if not self._free:
            self._make_room(max(8, 2 * self._num_rows))
        return self._free.pop()

    def _make_room(self, num_rows: int) -> None:
        self._free += list(range(self._num_rows, num_rows))[::-1]
        self._num_rows = num_rows
        for one in self.groups:
            one.make_room(num_rows)
