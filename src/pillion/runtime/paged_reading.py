"""Follows many requests through an engine with a paged cache: the probes' own little KV cache.

What the probes keep of a token lies where the engine keeps its keys and values: in the same page.
So what a request shares with others, gets again after it was put back, or reads in chunks is there
for the probes too. Prompts are folded as they are read; an answer's fold goes on token by token.
Knows no engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.backends.paged import Chunk, PagedStep
from pillion.core import Verdict
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.runtime.group import Group, group
from pillion.runtime.held import Held
from pillion.runtime.paged_group import PagedGroup

HELD_TOKENS = 64
"""Steps up to this many tokens are tapped in one go after the last layer: few large operations in
the place of several a layer, and their states are small."""

Probs = tuple[list[float], ...]
"""Probabilities of every probe, in the order of the artefacts."""


@dataclass
class Lane:
    """How far a request has been read.

    Attributes:
        row: its place in the groups.
        prompt_tokens: tokens of the prompt; None for a request whose verdicts nobody wants.
        prompt: what the probes say of it, once it has been read.
        answer: what they say of the answer so far; None before its first token was read.
        read_tokens: tokens that the row's fold has taken in, or has been reset behind.
        fault: what is wrong with the states of the request.
    """

    row: int
    prompt_tokens: int | None
    prompt: Probs | None = None
    answer: Probs | None = None
    read_tokens: int = 0
    fault: str | None = None


class Due(NamedTuple):
    """Whose verdicts are due after a step, and the chunks that they read.

    Attributes:
        prompts: prompts that are now whole.
        answers: answers whose fold was brought up to date.
        tokens: answers that go on by one token, and the page of it.
    """

    prompts: list[tuple[Lane, Chunk]]
    answers: list[tuple[Lane, Chunk]]
    tokens: list[tuple[Lane, Chunk]]


class PagedReading:
    """Probes on all requests of an engine. A `PagedWatcher`.

    Law: what a lane says equals the fold of its request's tokens alone, whatever else runs, in
    whatever chunks, from shared slots or not, begun again or not.

    Args:
        artefacts: the probes; their names must differ.
        device: where the model runs.
        dtype: of the model's states.
        num_pages: of the engine's cache.
        page_tokens: tokens a page.

    Raises:
        ConfigError: two probes of one name, or one that reads whole states.

    Attributes:
        layers: what is read, ascending.
        lanes: requests that are followed, by id.
        seconds: time spent here so far.
    """

    def __init__(
        self,
        artefacts: Sequence[Artefact],
        device: torch.device,
        dtype: torch.dtype,
        num_pages: int,
        page_tokens: int,
    ) -> None:
        self.artefacts = {a.name: a for a in artefacts}
        if len(self.artefacts) < len(artefacts):
            names = ", ".join(a.name for a in artefacts)
            raise ConfigError(f"Probe names must differ; got {names}. Rename a folder.")
        groups = group(artefacts, device, dtype)
        for one in groups:
            _check_tapped(one)
        self.page_tokens = page_tokens
        self.groups = [PagedGroup(one, num_pages, page_tokens) for one in groups]
        self.layers = tuple(sorted({layer for one in groups for layer in one.layers}))
        self.lanes: dict[str, Lane] = {}
        self.seconds = 0.0
        self._wanted: dict[str, int] = {}
        self._left: set[str] = set()
        self._free: list[int] = []
        self._num_rows = 0
        self._pages: list[int] = []
        self._held = Held(device, HELD_TOKENS)
        self._step: PagedStep | None = None

    def enter(self, request: str, prompt_tokens: int) -> None:
        """A request will run whose verdicts are wanted."""
        self._wanted[request] = prompt_tokens

    def leave(self, request: str) -> None:
        """A request is over; a step with it may be on its way, in another thread."""
        self._left.add(request)

    @property
    def held_bytes(self) -> int:
        """Memory of taps, slots and lanes, in bytes."""
        return sum(one.held_bytes for one in self.groups)

    # -- what the engine calls, in the order of time

    def start(self, step: PagedStep) -> None:
        """A step begins."""
        self._step = step
        self._held.clear()
        running = {chunk.request for chunk in step.chunks}
        # Who left but is in the step fills pages that others may get: it is followed to the end.
        for request in self._left - running:
            self._left.discard(request)
            self._wanted.pop(request, None)
            if (lane := self.lanes.pop(request, None)) is not None:
                self._free.append(lane.row)
        for request in running - self.lanes.keys():
            self.lanes[request] = Lane(self._new_row(), self._wanted.get(request))

    def see(self, layer: int, hidden: Float[Tensor, "1 token dim"]) -> None:
        """Taps a layer; small steps are held until all layers are there."""
        begin = time.perf_counter()
        assert self._step is not None
        if self._held.holds(len(self._step.slots)):
            if self._held.add(layer, hidden):
                self._tap_held()
        else:
            for one in self.groups:
                one.see(layer, hidden)
        self.seconds += time.perf_counter() - begin

    def end(self) -> None:
        """Writes the values of the step to their slots, and folds what is due."""
        begin = time.perf_counter()
        step, self._step = self._step, None
        assert step is not None
        if self._held:
            self._tap_held()
        self._say(self._read(step))
        self.seconds += time.perf_counter() - begin

    # -- inside

    def _tap_held(self) -> None:
        layers, every = self._held.take()
        for one in self.groups:
            one.see_all(every, layers)

    def _read(self, step: PagedStep) -> Due:
        """Takes in every chunk but single tokens of answers, which go together."""
        due = Due([], [], [])
        self._pages = (step.slots // self.page_tokens).tolist()
        for index, chunk in enumerate(step.chunks):
            lane = self.lanes[chunk.request]
            if (
                lane.prompt is not None
                and chunk.num_tokens == 1
                and chunk.start == lane.read_tokens
            ):
                due.tokens.append((lane, chunk))
                lane.read_tokens = chunk.end
                continue
            self._take(step, index, lane)
            if chunk.draws and lane.prompt_tokens is not None:
                (due.prompts if lane.prompt is None else due.answers).append((lane, chunk))
        return due

    def _take(self, step: PagedStep, index: int, lane: Lane) -> None:
        chunk = step.chunks[index]
        pages = self._pages[chunk.first : chunk.first + chunk.num_tokens]
        wanted = lane.prompt_tokens is not None
        if wanted and lane.prompt is None and (chunk.start != lane.read_tokens or not chunk.start):
            shared = step.history(index)[: chunk.start : self.page_tokens] // self.page_tokens
            for one in self.groups:
                one.restart(lane.row, shared.tolist())
            lane.read_tokens = chunk.start
        skip = min(lane.read_tokens - chunk.start, chunk.num_tokens) if wanted else None
        assert skip is None or skip >= 0, "a prefix of an answer was cached before it was read"
        for one in self.groups:
            one.take(lane.row, chunk, pages, skip)
        lane.read_tokens = max(lane.read_tokens, chunk.end)

    def _say(self, due: Due) -> None:
        """Reads out what is due."""
        every = [*due.prompts, *due.answers, *due.tokens]
        if not every:
            return
        rows = [lane.row for lane, _ in due.tokens]
        chunks = [chunk for _, chunk in due.tokens]
        pages = [self._pages[chunk.first] for chunk in chunks]
        named: list[tuple[Artefact, Float[Tensor, "row output"]]] = []
        for one in self.groups:
            parts = [one.logits([lane.row for lane, _ in some]) for some in due[:2] if some]
            if rows:
                parts.append(one.take_each(rows, chunks, pages))
            logits = torch.cat(parts)
            named += zip(one.artefacts, (logits[:, c] for c in one.columns), strict=True)
        probs = {artefact.name: artefact.probabilities(x).tolist() for artefact, x in named}
        said = zip(*(probs[name] for name in self.artefacts), strict=True)
        for place, ((lane, chunk), numbers) in enumerate(zip(every, said, strict=True)):
            if not all(isfinite(number) for row in numbers for number in row):
                lane.fault = lane.fault or self._fault(chunk)
            elif place < len(due.prompts):
                lane.prompt = numbers
            else:
                lane.answer = numbers
        for lane, _ in due.prompts:  # what follows is the answer
            for one in self.groups:
                one.reset(lane.row)

    def _fault(self, chunk: Chunk) -> str:
        found = next(filter(None, (one.fault(chunk) for one in self.groups)), None)
        layer, token = found or (None, None)
        where = "" if token is None else f" of layer {layer} at token {chunk.start + token}"
        return (
            f"Hidden states{where} are not finite: the model gave NaN or infinity. Use another "
            "dtype (--dtype float32 or bfloat16)."
        )

    def _new_row(self) -> int:
        if not self._free:
            have = self._num_rows
            self._num_rows = max(8, 2 * have)
            self._free = list(range(have, self._num_rows))[::-1]
            for one in self.groups:
                one.make_room(self._num_rows)
        return self._free.pop()

    def verdicts(self, probs: Probs | None) -> dict[str, Verdict]:
        """Verdicts of probabilities that a lane held; empty for None."""
        if probs is None:
            return {}
        return {
            name: artefact.verdict(numbers)
            for (name, artefact), numbers in zip(self.artefacts.items(), probs, strict=True)
        }


def _check_tapped(one: Group) -> None:
    if one.scope != "all":
        names = ", ".join(a.name for a in one.artefacts)
        raise ConfigError(
            f"Probe {names} reads the scope {one.scope!r}, which this engine does not follow yet; "
            "serve a probe of the scope all, and use this one with predict or generate."
        )
    if not one.tapped:
        names = ", ".join(a.name for a in one.artefacts)
        raise ConfigError(
            f"Probe {names} reads whole hidden states, which a serving engine cannot keep for "
            "every token; serve a probe that can be tapped, such as gate, and use this one with "
            "predict."
        )
