"""Follows many requests through an engine with a paged cache: the probes' own little KV cache.

What the probes keep of a token lies where the engine keeps its keys and values: in the same page.
So what a request shares with others, gets again after it was put back, or reads in chunks is there
for the probes too. Prompts are folded as they are read; an answer's fold goes on token by token.
Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.backends.paged import Chunk, PagedStep
from pillion.core import ANSWER_SCOPES, Tokens
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.probe.group import Group, group
from pillion.sidecache.lanes import Due, Lane
from pillion.sidecache.paged_group import PagedGroup
from pillion.sidecache.script import Script

Said = tuple[Lane, Chunk, bool]
"""A lane, the chunk that it read, and whether its prompt is meant."""


class Heard(NamedTuple):
    """What a group has to say after a step.

    Attributes:
        group: who says it.
        said: of whom.
        logits: of all probes of the group, still on the device.
    """

    group: PagedGroup
    said: list[Said]
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
        self.lanes: dict[str, Lane] = {}
        self._entered: dict[str, tuple[Script, bool]] = {}
        self._left: set[str] = set()
        self._free: list[int] = []
        self._num_rows = 0
        self._pages: list[int] = []
        self._step: PagedStep | None = None
        self._make_room(num_rows)

    def renew(self, groups: Sequence[PagedGroup]) -> None:
        """Takes groups of the same probes that hold nothing yet, as no page of the engine does.

        The engine runs all requests again, from their first token on.
        """
        self.groups = list(groups)
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

    def begin(self, step: PagedStep) -> None:
        """A step begins: who runs, and which groups have something to read."""
        self._step = step
        running = {chunk.request for chunk in step.chunks}
        # Who left but is in the step fills pages that others may get: it is followed to the end.
        for request in self._left - running:
            self._left.discard(request)
            self._entered.pop(request, None)
            if (lane := self.lanes.pop(request, None)) is not None:
                self._free.append(lane.row)
        for request in running - self.lanes.keys():
            nobody = Script(None, self.page_tokens), False
            self.lanes[request] = Lane(self._new_row(), *self._entered.get(request, nobody))
        scripts = [self.lanes[chunk.request].script for chunk in step.chunks]
        if self._reasoning is not None and any(one.scope in ANSWER_SCOPES for one in self.groups):
            ids = step.ids.tolist()
            for chunk, script in zip(step.chunks, scripts, strict=True):
                script.hear(chunk.start, ids[chunk.first : chunk.first + chunk.num_tokens])
        for one in self.groups:
            one.begin(step.chunks, scripts)

    def end(self) -> None:
        """The groups have seen all layers: keeps what was computed, and reads out what is due."""
        for heard in self.read()[1]:
            self._tell(*heard)

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
        due, longer = self._due(step)
        # First of all: whoever begins in this step may share the pages that these tokens fill.
        tokens = [self._heard_each(one, due) for one in self.groups]
        for index in longer:
            chunk = step.chunks[index]
            lane = self.lanes[chunk.request]
            self._take(step, index, lane)
            if chunk.draws and lane.wanted:
                (due.prompts if lane.prompt is None else due.answers).append((lane, chunk))
        return due, self._say(due) + [one for one in tokens if one is not None]

    # -- inside

    def _due(self, step: PagedStep) -> tuple[Due, list[int]]:
        """Single tokens of answers, which go together; indices of the other chunks."""
        due, longer = Due([], [], []), list[int]()
        self._pages = (step.slots // self.page_tokens).tolist()
        for index, chunk in enumerate(step.chunks):
            lane = self.lanes[chunk.request]
            is_next = lane.prompt is not None and chunk.start == lane.read_tokens
            if is_next and chunk.num_tokens == 1:
                due.tokens.append((lane, chunk))
                lane.read_tokens = chunk.end
            else:
                longer.append(index)
        return due, longer

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
            said: list[Said] = [
                (lane, chunk, True)
                for lane, chunk in due.prompts
                if lane.script.has(one.scope) and one.artefacts[0].name not in lane.lost
            ]
            said += [(*lane_chunk, False) for lane_chunk in self._answered(one, due)]
            if said:
                found.append(Heard(one, said, one.logits([lane.row for lane, _, _ in said])))
        for lane, _ in due.prompts:  # what follows is the answer
            for one in self.groups:
                one.reset(lane.row)
        return found

    def _heard_each(self, one: PagedGroup, due: Due) -> Heard | None:
        """What a group has to say of the answers that go on by one token."""
        if not due.tokens:
            return None
        lanes, chunks = zip(*due.tokens, strict=True)
        pages = [self._pages[chunk.first] for chunk in chunks]
        rows, scripts = [lane.row for lane in lanes], [lane.script for lane in lanes]
        heard, logits = one.take_each(rows, chunks, pages, scripts)
        if logits is None:
            return None
        return Heard(one, [(lanes[i], chunks[i], False) for i in heard], logits)

    @staticmethod
    def _answered(one: PagedGroup, due: Due) -> Iterator[tuple[Lane, Chunk]]:
        """Answers of several tokens of which the group has read one or more."""
        for lane, chunk in due.answers:
            if lane.script.bits(one.scope, lane.script.prompt_tokens, chunk.end):
                yield lane, chunk

    def _tell(
        self, one: PagedGroup, said: Sequence[Said], logits: Float[Tensor, "row output"]
    ) -> None:
        """Gives the lanes the probabilities of a group's probes."""
        named = [
            (artefact.name, artefact.probabilities(logits[:, columns]).tolist())
            for artefact, columns in zip(one.artefacts, one.columns, strict=True)
        ]
        for place, (lane, chunk, is_prompt) in enumerate(said):
            numbers = {name: rows[place] for name, rows in named}
            if not all(isfinite(number) for row in numbers.values() for number in row):
                lane.fault = lane.fault or self._fault(chunk)
            elif is_prompt:
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


def tapped_groups(
    artefacts: Sequence[Artefact], device: torch.device, dtype: torch.dtype
) -> list[Group]:
    """Probes that an engine can serve, sorted into those that share taps and a fold.

    Args:
        artefacts: the probes; their names must differ.
        device: where the model runs.
        dtype: of the model's states.

    Raises:
        ConfigError: two probes of one name, or one that reads whole states.
    """
    if len({a.name for a in artefacts}) < len(artefacts):
        names = ", ".join(a.name for a in artefacts)
        raise ConfigError(f"Probe names must differ; got {names}. Rename a folder.")
    groups = group(artefacts, device, dtype)
    for one in groups:
        if not one.tapped:
            names = ", ".join(a.name for a in one.artefacts)
            raise ConfigError(
                f"Probe {names} reads whole hidden states, which a serving engine cannot keep for "
                "every token; serve a probe that can be tapped, such as gate, and use this one "
                "with predict."
            )
    return groups
