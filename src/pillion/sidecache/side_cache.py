"""Follows many requests through an engine with a paged cache: the probes' own little KV cache.

What the probes keep of a token lies where the engine keeps its keys and values: in the same page.
So what a request shares with others, gets again after it was put back, or reads in chunks is there
for the probes too. Prompts are folded as they are read; an answer's fold goes on token by token.
Knows no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pillion.backends.paged import Chunk, PagedStep
from pillion.core import ANSWER_SCOPES, Tokens
from pillion.sidecache.going import Grower, Grown
from pillion.sidecache.lanes import Due, Going, Lane
from pillion.sidecache.paged_group import PagedGroup
from pillion.sidecache.script import Script


class Heard(NamedTuple):
    """What a group has to say after a step.

    Attributes:
        group: who says it.
        said: of whom: indices into all that is `Due`.
        logits: of all probes of the group, still on the device.
    """

    group: PagedGroup
    said: Sequence[int]
    logits: Float[Tensor, "row output"]


class SideCache:
    """Probes on all requests of an engine.

    Law: what a lane says equals the fold of its request's tokens of the probe's scope alone,
    whatever else runs, in whatever chunks, from shared pages or not, begun again or not.

    Args:
        groups: probes that share taps and a fold.
        page_tokens: tokens a page.
        reasoning: tokens around the reasoning in an answer, which scopes leave out.
        num_rows: requests that there is room for from the start; more make it grow.

    Attributes:
        groups: as given.
        grower: reads the answers that go on by one token.
        lanes: requests that are followed, by id.
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
        self.grower = Grower(groups)
        self.lanes: dict[str, Lane] = {}
        self._entered: dict[str, tuple[Script, bool]] = {}
        self._left: set[str] = set()
        self._free: list[int] = []
        self._num_rows = 0
        self._pages: list[int] = []
        self._step: PagedStep | None = None
        self._going: Going | None = None
        self._longer: list[int] = []
        self._make_room(num_rows)

    def renew(self, groups: Sequence[PagedGroup]) -> None:
        """Takes groups of the same probes that hold nothing yet, as no page of the engine does.

        The engine runs all requests again, from their first token on.
        """
        self.groups = list(groups)
        self.grower = Grower(groups)
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
        script = Script(tokens, self.page_tokens, self._reasoning, answering)
        self._entered[request] = script, wanted

    def leave(self, request: str) -> None:
        """A request is over; a step with it may be on its way, in another thread."""
        self._left.add(request)

    # -- in the order of a step

    def begin(self, step: PagedStep, going: Going | None = None) -> None:
        """A step begins: who runs, and which groups have something to read.

        Args:
            step: its chunks.
            going: answers that go on by one token and are no chunks of the step; None to find them
                among the chunks.
        """
        self._step = step
        if self._left:
            self._go(step, going)
        for chunk in step.chunks:
            if chunk.request not in self.lanes:
                nobody = Script(None, self.page_tokens), False
                entered = self._entered.get(chunk.request, nobody)
                self.lanes[chunk.request] = Lane(self._new_row(), *entered)
        self._pages = (step.slots // self.page_tokens).tolist() if step.chunks else []
        self._longer, self._going = list(range(len(step.chunks))), going
        if going is None:
            self._split(step)
        chunks = [step.chunks[index] for index in self._longer]
        scripts = [self.lanes[chunk.request].script for chunk in chunks]
        if self._reasoning is not None and any(one.scope in ANSWER_SCOPES for one in self.groups):
            self._hear(step, chunks)
        for one in self.groups:
            one.begin(chunks, scripts, self._going)

    def end(self) -> None:
        """The groups have seen all layers: keeps what was computed, and reads out what is due."""
        due, every = self.read()
        for heard in every:
            self._tell(due, heard)

    def again(self, request: str, tokens: Tokens) -> None:
        """An answer that was put back runs again from its first token on, and is read anew."""
        lane = self.lanes[request]
        answering = lane.script.answering
        lane.script = Script(tokens, self.page_tokens, self._reasoning, answering)
        lane.read_tokens = lane.script.prompt_tokens
        for one in self.groups:
            one.reset(lane.row)

    def read(self) -> tuple[Due, list[Heard]]:
        """Keeps what was computed, and reads out what is due, without waiting for the device.

        Returns:
            whose verdicts are due, and what the groups have heard of them.
        """
        step, self._step = self._step, None
        assert step is not None
        due, tokens = Due([], [], self._going or None), list[Grown]()
        # First of all: whoever begins in this step may share the pages that these tokens fill.
        if self._going:
            tokens = self.grower.go_on(self._going)
            ends = (self._going.starts + 1).tolist()
            for lane, end in zip(self._going.lanes, ends, strict=True):
                lane.read_tokens = end
        for index in self._longer:
            chunk = step.chunks[index]
            lane = self.lanes[chunk.request]
            self._take(step, index, lane)
            if chunk.draws and lane.wanted:
                (due.prompts if lane.prompt is None else due.answers).append((lane, chunk))
        heard, before = self._say(due), len(due.prompts) + len(due.answers)
        heard += [Heard(one, (who + before).tolist(), logits) for one, who, logits in tokens]
        return due, heard

    # -- inside

    def _go(self, step: PagedStep, going: Going | None) -> None:
        """Drops who has left; who is in the step still fills pages that others may get."""
        running = {chunk.request for chunk in step.chunks}
        running |= set(() if going is None else going.requests)
        for request in self._left - running:
            self._left.discard(request)
            self._entered.pop(request, None)
            if (lane := self.lanes.pop(request, None)) is not None:
                self._free.append(lane.row)

    def _split(self, step: PagedStep) -> None:
        """Finds the single tokens of answers, which go together, among the chunks."""
        lanes = [self.lanes[chunk.request] for chunk in step.chunks]
        single = [
            chunk.num_tokens == 1 and lane.prompt is not None and chunk.start == lane.read_tokens
            for chunk, lane in zip(step.chunks, lanes, strict=True)
        ]
        self._longer = [index for index, is_single in enumerate(single) if not is_single]
        if len(self._longer) == len(lanes):
            return
        some = [index for index, is_single in enumerate(single) if is_single]
        chunks = [step.chunks[index] for index in some]
        places = [chunk.first for chunk in chunks]
        self._going = Going(
            [chunk.request for chunk in chunks],
            [lanes[index] for index in some],
            np.array([lanes[index].row for index in some]),
            np.array([chunk.start for chunk in chunks]),
            np.array([self._pages[place] for place in places]),
            np.array(places),
            self.page_tokens,
        )

    def _hear(self, step: PagedStep, chunks: Sequence[Chunk]) -> None:
        """Tells the scripts what runs, for answers may hold reasoning."""
        ids = step.ids.tolist()
        for chunk in chunks:
            script = self.lanes[chunk.request].script
            script.hear(chunk.start, ids[chunk.first : chunk.first + chunk.num_tokens])
        if (going := self._going) is not None:
            told = going.ids or [ids[place] for place in going.tokens.tolist()]
            for lane, start, token in zip(going.lanes, going.starts.tolist(), told, strict=True):
                lane.script.hear(start, [token])

    def _take(self, step: PagedStep, index: int, lane: Lane) -> None:
        chunk = step.chunks[index]
        pages = self._pages[chunk.first : chunk.first + chunk.num_tokens]
        begins = chunk.start != lane.read_tokens or not chunk.start
        if lane.wanted and lane.prompt is None and begins:
            self._restart(step, index, lane)
        skip = min(lane.read_tokens - chunk.start, chunk.num_tokens) if lane.wanted else None
        assert skip is None or skip >= 0, "a prefix of an answer was cached before it was read"
        for one in self.groups:
            one.take(lane.row, chunk, pages, lane.script, skip)
        lane.read_tokens = max(lane.read_tokens, chunk.end)

    def _restart(self, step: PagedStep, index: int, lane: Lane) -> None:
        """The lane's folds are those of the pages that its prompt was given."""
        start, size = step.chunks[index].start, self.page_tokens
        shared = (step.history(index)[:start:size] // size).tolist() if start else []
        lost = [one for one in self.groups if not one.restart(lane.row, shared, lane.script)]
        lane.lost = tuple(a.name for one in lost for a in one.artefacts)
        lane.read_tokens = start

    def _say(self, due: Due) -> list[Heard]:
        """Reads out the chunks that are due."""
        found: list[Heard] = []
        for lane, _ in due.prompts:
            lane.prompt = {}
        for one in self.groups:
            said = [
                index
                for index, (lane, _) in enumerate(due.prompts)
                if lane.script.has(one.scope) and one.artefacts[0].name not in lane.lost
            ]
            said += [
                index
                for index, (lane, chunk) in enumerate(due.answers, len(due.prompts))
                if lane.script.bits(one.scope, lane.script.prompt_tokens, chunk.end)
            ]
            if said:
                rows = [(*due.prompts, *due.answers)[index][0].row for index in said]
                found.append(Heard(one, said, one.logits(rows)))
        for lane, _ in due.prompts:  # what follows is the answer
            for one in self.groups:
                one.reset(lane.row)
        return found

    def _tell(self, due: Due, heard: Heard) -> None:
        """Gives the lanes the probabilities of a group's probes."""
        one, lanes = heard.group, due.lanes
        named = [
            (artefact.name, artefact.probabilities(heard.logits[:, columns]).tolist())
            for artefact, columns in zip(one.artefacts, one.columns, strict=True)
        ]
        for place, index in enumerate(heard.said):
            lane = lanes[index]
            numbers = {name: rows[place] for name, rows in named}
            if not all(isfinite(number) for row in numbers.values() for number in row):
                lane.fault = lane.fault or self._fault(due.chunk(index))
            elif index < len(due.prompts):
                lane.prompt = {**(lane.prompt or {}), **numbers}
            else:  # a mapping of its own: whoever holds the one before may look at it later
                lane.answer = {**lane.answer, **numbers}

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
