"""Follows many requests through an engine with a paged cache: the probes' own little KV cache.

The tapped values of every token are written where the engine writes the token's keys and values, in
its own slots. So what a request shares, is given again after a preemption or reads in chunks is
there for the probes too. Prompts are folded from the slots; an answer's fold goes on token by
token. Knows no engine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.backends.paged import Chunk, PagedStep
from pillion.core import Verdict
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.runtime.group import Group, group
from pillion.runtime.paged_group import PagedGroup, Span

HELD_TOKENS = 64
"""Steps up to this many tokens are tapped in one go after the last layer: few large operations in
the place of several a layer, and their states are small."""

Probs = tuple[list[float], ...]
"""Probabilities of every probe, in the order of the artefacts."""


@dataclass
class Lane:
    """How far a request has been read.

    Attributes:
        prompt_tokens: tokens of the prompt.
        prompt: what the probes say of it, once it has been read.
        answer: what they say of the answer so far; None before its first token was read.
        read_tokens: tokens whose fold `answer` and the groups hold, those of the prompt included.
        fault: what is wrong with the states of the request.
    """

    prompt_tokens: int
    prompt: Probs | None = None
    answer: Probs | None = None
    read_tokens: int = 0
    fault: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a step folds: whole prompts, answers from their beginning, answers by a token."""

    prompts: list[Span]
    answers: list[Span]
    steps: list[Span]


class PagedReading:
    """Probes on all requests of an engine. A `PagedWatcher`.

    Law: what a lane says equals the fold of its request's tokens alone, whatever else runs, in
    whatever chunks, from shared slots or not, begun again or not.

    Args:
        artefacts: the probes; their names must differ.
        device: where the model runs.
        dtype: of the model's states.
        num_slots: of the engine's cache.

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
        num_slots: int,
    ) -> None:
        self.artefacts = {a.name: a for a in artefacts}
        if len(self.artefacts) < len(artefacts):
            names = ", ".join(a.name for a in artefacts)
            raise ConfigError(f"Probe names must differ; got {names}. Rename a folder.")
        groups = group(artefacts, device, dtype)
        for one in groups:
            _check_tapped(one)
        self.groups = [PagedGroup(one, num_slots) for one in groups]
        self.layers = tuple(sorted({layer for one in groups for layer in one.layers}))
        self.lanes: dict[str, Lane] = {}
        self.seconds = 0.0
        self._left = deque[str]()
        self._held: list[Tensor] = []
        self._step: PagedStep | None = None

    def enter(self, request: str, prompt_tokens: int) -> None:
        """A request will run."""
        self.lanes[request] = Lane(prompt_tokens)

    def leave(self, request: str) -> None:
        """A request is over."""
        self._left.append(request)  # a step may be on its way, in another thread

    @property
    def held_bytes(self) -> int:
        """Memory of taps, slots and lanes, in bytes."""
        return sum(one.held_bytes for one in self.groups)

    # -- what the engine calls, in the order of time

    def start(self, step: PagedStep) -> None:
        """A step begins."""
        self._step, self._held = step, []
        while self._left:
            request = self._left.popleft()
            self.lanes.pop(request, None)
            for one in self.groups:
                one.forget(request)

    def see(self, layer: int, hidden: Float[Tensor, "1 token dim"]) -> None:
        """Taps a layer; small steps are held until all layers are there."""
        begin = time.perf_counter()
        assert self._step is not None
        if len(self._step.slots) <= HELD_TOKENS:
            self._held.append(hidden)
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
            every = torch.stack(self._held)
            self._held = []
            for one in self.groups:
                one.see_all(every, self.layers)
        finite = [one.write(step.slots) for one in self.groups]
        if not all(finite):
            self._find_faults(step)
        self._fold(step, self._plan(step))
        self.seconds += time.perf_counter() - begin

    # -- inside

    def _plan(self, step: PagedStep) -> Plan:
        plan = Plan([], [], [])
        for index, chunk in enumerate(step.chunks):
            lane = self.lanes.get(chunk.request)
            if lane is None or not chunk.draws or lane.fault:
                continue
            if lane.prompt is None:
                plan.prompts.append(Span(chunk.request, index, 0, lane.prompt_tokens))
            if chunk.end == lane.prompt_tokens:
                continue
            goes_on = chunk.num_tokens == 1 and lane.read_tokens == chunk.start
            first = chunk.start if goes_on else lane.prompt_tokens
            span = Span(chunk.request, index, first, chunk.end)
            (plan.steps if goes_on else plan.answers).append(span)
        return plan

    def _fold(self, step: PagedStep, plan: Plan) -> None:
        prompts = [list[list[float]]() for _ in plan.prompts]
        answers = [list[list[float]]() for _ in [*plan.answers, *plan.steps]]
        named: dict[str, tuple[Tensor, Tensor]] = {}
        for one in self.groups:
            whole = one.fold_prompts(step, plan.prompts)
            again = one.fold_answers(step, plan.answers)
            after = one.fold_steps(step, plan.steps)
            for artefact, columns in zip(one.artefacts, one.columns, strict=True):
                named[artefact.name] = (
                    artefact.probabilities(whole[:, columns]),
                    artefact.probabilities(torch.cat([again, after])[:, columns]),
                )
        for name in self.artefacts:
            for rows, probs in zip((prompts, answers), named[name], strict=True):
                for row, numbers in zip(rows, probs.tolist(), strict=True):
                    row.append(numbers)
        for span, row in zip(plan.prompts, prompts, strict=True):
            lane = self.lanes[span.request]
            lane.prompt, lane.read_tokens = tuple(row), lane.prompt_tokens
        for span, row in zip([*plan.answers, *plan.steps], answers, strict=True):
            lane = self.lanes[span.request]
            lane.answer, lane.read_tokens = tuple(row), span.end

    def _find_faults(self, step: PagedStep) -> None:
        """A value that is not finite is its request's alone."""
        first = 0
        for chunk in step.chunks:
            last = first + chunk.num_tokens
            lane = self.lanes.get(chunk.request)
            if lane is not None and lane.fault is None:
                lane.fault = self._fault(chunk, first, last)
            first = last

    def _fault(self, chunk: Chunk, first: int, last: int) -> str | None:
        for one in self.groups:
            if (found := one.fault(first, last)) is not None:
                layer, token = found
                return (
                    f"Hidden states of layer {layer} are not finite at token "
                    f"{chunk.start + token}: the model gave NaN or infinity. Use another dtype "
                    "(--dtype float32 or bfloat16)."
                )
        return None

    def verdicts(self, probs: Probs | None) -> dict[str, Verdict]:
        """Verdicts of probabilities that a lane held; empty for None."""
        if probs is None:
            return {}
        return {
            name: artefact.verdict(numbers)
            for (name, artefact), numbers in zip(self.artefacts.items(), probs, strict=True)
        }


def _check_tapped(one: Group) -> None:
    if not one.tapped:
        names = ", ".join(a.name for a in one.artefacts)
        raise ConfigError(
            f"Probe {names} reads whole hidden states, which a serving engine cannot keep for "
            "every token; serve a probe that can be tapped, such as gate, and use this one with "
            "predict."
        )
