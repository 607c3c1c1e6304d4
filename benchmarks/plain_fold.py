"""What the side cache is measured against: the running fold of each request, and no pages.

Nothing is kept of a page, so no prefix could be shared, no request put back and no scope read anew.
Stands where a `PagedReading` looks for its `SideCache`, so taps and clocks are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from pillion.backends.paged import Chunk, PagedStep
from pillion.core import ANSWER_SCOPES, Tokens
from pillion.probe.group import Group
from pillion.probe.network import State
from pillion.sidecache import Folds
from pillion.sidecache.step_values import StepValues

Said = dict[str, list[float]]
"""Probe -> probabilities."""


class PlainGroup:
    """Running folds of a group of probes.

    Args:
        one: taps and fold.
        num_rows: requests that run together.
    """

    def __init__(self, one: Group, num_rows: int) -> None:
        self.group, self.fold, self.scope = one, one.fold, one.scope
        self.layers, self.artefacts = one.layers, one.artefacts
        self.values = StepValues(one)
        self.folds = Folds(one.fold, one.empty_values(len(one.layers), 1, 1).zero_())
        self.folds.make_room(num_rows)
        self.idle = False
        self._words: dict[str, tuple[Tensor, list[int]]] = {}

    def enter(self, request: str, tokens: Tokens) -> None:
        """Which tokens of a prompt the scope reads, and how many before each place."""
        words = torch.zeros(len(tokens), dtype=torch.bool)
        for places in tokens.ranges(self.scope):
            words[places.start : places.stop] = True
        counts = list(accumulate(words.tolist(), initial=0))
        self._words[request] = words.to(self.group.own.device), counts

    def begin(self, chunks: Sequence[Chunk]) -> None:
        """A step begins; as in the side cache, it is not tapped where it runs none of the words."""
        self.idle = not any(self._num_read(chunk) for chunk in chunks)

    def read(self, chunks: Sequence[Chunk], rows: Sequence[int]) -> dict[str, Said]:
        """Folds a step, and says what the probes say of prompts that are whole and of answers."""
        each = list(zip(chunks, rows, strict=True))
        tokens = [one for one in each if self._is_answer(one[0]) and self._num_read(one[0])]
        found = self._say(tokens, self._take_each(tokens)) if tokens else {}
        asked = [(chunk, row) for chunk, row in each if not self._is_answer(chunk)]
        for chunk, row in asked:
            if self._num_read(chunk):
                self.folds.add(row, self._summary(chunk))
        if whole := [(chunk, row) for chunk, row in asked if chunk.draws]:
            found |= self._say(whole, self.folds.logits([row for _, row in whole]))
            for _, row in whole:
                self.folds.reset(row)
        return found

    def _take_each(self, tokens: Sequence[tuple[Chunk, int]]) -> Tensor:
        places = torch.tensor([chunk.first for chunk, _ in tokens])
        values = self.values.at(places.to(self.group.own.device))[:, :, None]
        state = self.fold.summarise(values, values.new_ones(len(tokens), 1).bool())
        return self.folds.add_each([row for _, row in tokens], state)

    def _is_answer(self, chunk: Chunk) -> bool:
        return chunk.start >= len(self._words[chunk.request][0])

    def _num_read(self, chunk: Chunk) -> int:
        if self._is_answer(chunk):
            return chunk.num_tokens if self.scope in ANSWER_SCOPES else 0
        counts = self._words[chunk.request][1]
        return counts[chunk.end] - counts[chunk.start]

    def _summary(self, chunk: Chunk) -> State:
        values = self.values.between(chunk.first, chunk.first + chunk.num_tokens)
        words = self._words[chunk.request][0][None, chunk.start : chunk.end]
        if self._num_read(chunk) < chunk.num_tokens:
            values = values.masked_fill(~words[None, :, :, None], 0)
        return self.fold.summarise(values, words)

    def _say(self, each: Sequence[tuple[Chunk, int]], logits: Tensor) -> dict[str, Said]:
        named = [
            (artefact.name, artefact.probabilities(logits[:, columns]).tolist())
            for artefact, columns in zip(self.artefacts, self.fold.columns, strict=True)
        ]
        return {
            chunk.request: {name: rows[place] for name, rows in named}
            for place, (chunk, _) in enumerate(each)
        }


class PlainSide:
    """Running folds of all groups.

    Args:
        groups: probes that share taps and a fold.
        num_rows: requests that run together.
    """

    def __init__(self, groups: Sequence[Group], num_rows: int) -> None:
        self.groups = [PlainGroup(one, num_rows) for one in groups]
        self.said: dict[str, Said] = {}
        self._rows: dict[str, int] = {}
        self._free = list(range(num_rows))
        self._chunks: tuple[Chunk, ...] = ()

    def enter(self, request: str, tokens: Tokens) -> None:
        """A request will run."""
        self._rows[request] = self._free.pop()
        self.said[request] = {}
        for one in self.groups:
            one.enter(request, tokens)

    def leave(self, request: str) -> None:
        """A request is over."""
        self._free.append(self._rows.pop(request))
        del self.said[request]

    def begin(self, step: PagedStep) -> None:
        """A step begins: every group learns its chunks."""
        self._chunks = step.chunks
        for one in self.groups:
            one.begin(step.chunks)

    def end(self) -> None:
        """The groups have seen all layers."""
        rows = [self._rows[chunk.request] for chunk in self._chunks]
        for one in self.groups:
            for request, said in one.read(self._chunks, rows).items():
                self.said[request] = {**self.said[request], **said}
