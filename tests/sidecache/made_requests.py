"""Requests that never were, and steps, pages and states for them: an engine for the side cache.

States are drawn at random; who tests says which tokens run in a step and which pages they get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pillion.backends.fake import FakeBackend
from pillion.backends.paged import Chunk, PagedStep
from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES, SCOPES, Role, Segment, Tokens
from pillion.probe import Artefact
from pillion.probe.group import group
from pillion.sidecache import PagedGroup, SideCache
from pillion.sidecache.pages import page_numbers
from tiny_models import distance, make_artefact, offline

IDENTITY = FakeBackend().identity
LAYERS, SIZE, NUM_PAGES = IDENTITY.num_layers + 1, 4, 24
CPU = torch.device("cpu")
LIMIT = 1e-5
MARKS = (90, 91)


ALIKE = ("gate", "rolling")
"""Whose states have one size, which an engine that gives the memory asks for."""


def probes(names: Sequence[str] = (*ALIKE, "mha-causal")) -> list[Artefact]:
    return [
        make_artefact(f"{name}-{scope}", IDENTITY, name, template="chat", scope=scope)
        for name in names
        for scope in SCOPES
    ]


def side_cache(
    every: Sequence[Artefact],
    given: bool = False,
    size: int = SIZE,
    num_pages: int = NUM_PAGES,
    **options: Any,
) -> SideCache:
    """With memory of the groups' own, or as much as an engine would give for its pages."""
    groups: list[PagedGroup] = []
    for one in group(every, CPU, torch.float32):
        memory = torch.full((num_pages * page_numbers(one),), torch.nan) if given else None
        groups.append(PagedGroup(one, num_pages, size, memory))
    return SideCache(groups, size, **options)


@dataclass
class Run:
    """A request on its way through an engine.

    Attributes:
        name: its id.
        prompt: its tokens.
        states: of all its tokens, those to be drawn too: [layer, token, dim].
        pages: that it was given.
        done: tokens that have run.
        answer: tokens that were drawn.
        size: tokens a page.
    """

    name: str
    prompt: Tokens
    states: Tensor
    pages: list[int]
    done: int = 0
    answer: list[int] = field(default_factory=list[int])
    size: int = SIZE

    def slots(self, begin: int, end: int) -> list[int]:
        places = (divmod(place, self.size) for place in range(begin, end))
        return [self.pages[page] * self.size + place for page, place in places]


def turns(*lengths: tuple[Role, int]) -> Tokens:
    """Turns of so many tokens, one of the template before each and behind the last."""
    segments: list[Segment] = []
    place = 1
    for turn, (role, length) in enumerate(lengths):
        segments.append(Segment(place, place + length, role, turn))
        place += length + 1
    return Tokens(range(place), segments)


def states_of(num_tokens: int, seed: int, shared: Tensor | None = None) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    new = torch.randn(LAYERS, num_tokens, IDENTITY.dim, generator=noise)
    return new if shared is None else torch.cat([shared, new[:, shared.shape[1] :]], 1)


def step(side: SideCache, *parts: tuple[Run, int, bool]) -> None:
    """Runs so many tokens of each request; the last word of each says whether it draws."""
    chunks: list[Chunk] = []
    slots: list[int] = []
    ids: list[int] = []
    hidden: list[Tensor] = []
    for run, num_tokens, draws in parts:
        end = run.done + num_tokens
        chunks.append(Chunk(run.name, run.done, num_tokens, len(slots), draws))
        slots += run.slots(run.done, end)
        ids += [*run.prompt, *run.answer][run.done : end]
        hidden.append(run.states[:, run.done : end])
        run.done = end

    def history(index: int) -> Tensor:
        run, chunk = parts[index][0], chunks[index]
        return torch.tensor(run.slots(0, chunk.end))

    side.begin(PagedStep(tuple(chunks), torch.tensor(slots), history, torch.tensor(ids)))
    every = torch.cat(hidden, 1)[:, None]
    for one in side.groups:
        if not one.idle:
            for layer in one.layers:
                one.values.see(layer, every[layer])
    side.end()


def answer(side: SideCache, run: Run, ids: Sequence[int]) -> None:
    """Tokens of an answer, one a step."""
    for token in ids:
        run.answer.append(token)
        step(side, (run, 1, True))


def check(
    side: SideCache, run: Run, every: Sequence[Artefact], heard: Sequence[int] | None = None
) -> None:
    """Raises unless a request's verdicts are those that the tokens of each scope give alone."""
    tracked, begin = side.tracked[run.name], len(run.prompt)
    assert tracked.prompt is not None and tracked.fault is None
    read = range(begin, run.done) if heard is None else heard
    for probe in every:
        scope = probe.card.scope
        ranges = run.prompt.ranges(scope) if scope in PROMPT_SCOPES else ()
        compare(tracked.prompt.get(probe.name), probe, run, [i for one in ranges for i in one])
        own = read if scope != "all" else range(begin, run.done)
        compare(tracked.answer.get(probe.name), probe, run, own if scope in ANSWER_SCOPES else ())


def compare(got: Any, probe: Artefact, run: Run, places: Sequence[int]) -> None:
    assert (got is None) == (not places), probe.name
    if got is not None:
        wanted = offline(probe, run.states, [range(i, i + 1) for i in places])
        assert distance(torch.tensor(got), wanted) < LIMIT, probe.name
