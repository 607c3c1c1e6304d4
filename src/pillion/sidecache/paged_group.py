"""The side cache of the probes of one group: folded pieces of pages, and a fold for every row.

Knows rows (one a request), pages, chunks and their turns; no engine and no verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pillion.backends.paged import Chunk
from pillion.core import ANSWER_SCOPES, Scope
from pillion.probe.group import Group
from pillion.probe.network import State, pick
from pillion.sidecache.folds import Folds, reduce_rows
from pillion.sidecache.open_states import OpenStates
from pillion.sidecache.open_values import OpenValues
from pillion.sidecache.pages import Pages
from pillion.sidecache.pieces import DecodePlan, OpenPart, summary
from pillion.sidecache.step_values import StepValues
from pillion.sidecache.tracked import DecodeBatch, Numbers
from pillion.sidecache.turn_map import TurnMap
from pillion.sidecache.upload import upload


class PagedGroup:
    """What the probes of a group keep of all requests.

    A page that is full is folded to one state for each turn of the scope in it, under the page's
    own number: a request that gets the page from the engine gets the states with it, and merges
    those of its own scope. The states of a page that is still open grow in the same place. Each row
    has a running fold too: of the prompt, then of the answer.

    Args:
        one: taps and fold.
        num_pages: of the engine's cache.
        page_tokens: tokens a page.
        memory: `page_numbers` of fp32 for each page, where the engine gives them.

    Attributes:
        places: of each probe its name and where its logits begin and end among the group's.
        idle: whether the step has no token that the scope reads.
    """

    def __init__(
        self,
        one: Group,
        num_pages: int,
        page_tokens: int,
        memory: Float[Tensor, " number"] | None = None,
    ) -> None:
        self.group, self.fold, self.page_tokens = one, one.fold, page_tokens
        self.layers, self.artefacts, self.columns = one.layers, one.artefacts, one.fold.columns
        self.scope: Scope = one.scope
        ends = ((columns.start, columns.stop) for columns in self.columns)
        self.places = [(a.name, *at) for a, at in zip(self.artefacts, ends, strict=True)]
        self.values = StepValues(one)
        empty = one.empty_values(len(self.layers), 1, page_tokens).zero_()
        # An answer is read by its own request alone: its pages keep nothing.
        kept_pages = 0 if self.scope == "response" else num_pages
        self._pages = Pages(summary(self.fold, empty), kept_pages, memory)
        self._folds = Folds(self.fold, empty[:, :, :1])
        self._open = (
            OpenStates(self._folds, self._pages, self.scope, page_tokens)
            if self._folds.alike
            else OpenValues(self._folds, self._pages, self.scope, empty[:, []])
        )
        self.idle = False
        self._answers: Numbers | None = None

    @property
    def held_bytes(self) -> int:
        """Memory of taps, pages and rows, in bytes."""
        return self.group.weight_bytes + self._pages.held_bytes + self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Memory of the rows alone, in bytes."""
        return self._open.nbytes + self._folds.held_bytes

    def memory(self) -> tuple[Tensor, Tensor]:
        """Where states of one size lie, [place, number]: of no token and the rows; of the pages."""
        return self._folds.memory, self._pages.memory

    def make_room(self, num_rows: int) -> None:
        """From now on there are so many rows, or more."""
        self._folds.make_room(num_rows)
        self._open.make_room(num_rows)

    # -- in the order of a step

    def begin(
        self, chunks: Sequence[Chunk], turn_maps: Sequence[TurnMap], decodes: DecodeBatch | None
    ) -> None:
        """A step begins; only words of the scope have to be tapped.

        Args:
            chunks: those of its tokens that are no single ones of answers.
            turn_maps: of their requests.
            decodes: the others.
        """
        self._answers = None if decodes is None else self._read_answers(decodes)
        if self.scope == "all":
            return
        read = [
            (chunk.first, turns.bits(self.scope, chunk.start, chunk.end, every_turn=True))
            for chunk, turns in zip(chunks, turn_maps, strict=True)
        ]
        single = None if decodes is None else decodes.tokens[self._answers]
        self.idle = not (single is not None and len(single)) and not any(bits for _, bits in read)
        self.values.choose(read, single)

    def restart(self, row: int, pages: Sequence[int], turns: TurnMap) -> bool:
        """The row's fold is that of whole pages from here on.

        Returns:
            whether what is kept of the pages tells the words of the scope apart.
        """
        self._folds.reset(row)
        places: list[int] = []
        for index, page in enumerate(pages):
            begin = index * self.page_tokens
            bits = turns.bits(self.scope, begin, begin + self.page_tokens)
            if (found := self._pages.find(page, bits)) is None:
                return False
            places += found
        if places:
            self._folds.put(row, reduce_rows(self.fold, self._pages.states(places)))
        return True

    def take(
        self, row: int, chunk: Chunk, pages: Sequence[int], turns: TurnMap, skip: int | None
    ) -> None:
        """Reads a chunk of any length.

        Args:
            row: of its request.
            chunk: where its tokens are.
            pages: of each of its tokens.
            turns: of its request.
            skip: how many of its tokens the row's fold holds already; None to fold none.
        """
        new = self._keep(row, chunk, pages, turns)
        if skip is None or skip == chunk.num_tokens:
            return
        if skip:
            new = [self._read(chunk, chunk.start + skip, chunk.end, turns)]
        for state in new:
            if state is not None:
                self._folds.add(row, state)

    def plan(self, decodes: DecodeBatch) -> DecodePlan:
        """What the single tokens of answers do; nothing of it waits for values."""
        assert self._answers is not None
        return self._open.plan(decodes, self._answers)

    def numbers(self, plan: DecodePlan) -> list[Numbers]:
        """What the device has to know of a plan."""
        return self._open.numbers(plan)

    def run(
        self, decodes: DecodeBatch, plan: DecodePlan, numbers: Sequence[Tensor]
    ) -> Float[Tensor, "answer output"] | None:
        """Runs the plan; logits of the rows of the answers that the scope reads."""
        return self._open.run(decodes, self.values, plan, numbers)

    def logits(self, rows: Sequence[int]) -> Float[Tensor, "row output"]:
        """Logits of some rows' folds."""
        return self._folds.logits(rows)

    def reset(self, row: int) -> None:
        """The row's fold begins anew."""
        self._folds.reset(row)

    def fault(self, chunk: Chunk) -> tuple[int, int] | None:
        """Layer and token of the first value in a chunk that is not finite."""
        if self.idle:
            return None
        values = self.values.between(chunk.first, chunk.first + chunk.num_tokens)[:, 0]
        wrong = (~torch.isfinite(values)).any(-1).nonzero().tolist()
        return next(((self.layers[place], token) for place, token in wrong), None)

    # -- inside

    def _read_answers(self, decodes: DecodeBatch) -> Numbers:
        """Which single tokens of answers the scope reads."""
        if self.scope == "all":
            return decodes.every
        if self.scope not in ANSWER_SCOPES:
            return decodes.every[:0]
        each = enumerate(zip(decodes.tracked, decodes.starts.tolist(), strict=True))
        found = [i for i, (tracked, n) in each if tracked.turns.bits(self.scope, n, n + 1)]
        return np.array(found, np.int64)

    def _keep(
        self, row: int, chunk: Chunk, pages: Sequence[int], turns: TurnMap
    ) -> list[State | None]:
        """Puts a chunk into its open page and the full ones; the states of what the scope reads."""
        size, begin = self.page_tokens, chunk.start
        offset = begin % size
        head = min(chunk.num_tokens, size - offset) if offset else 0
        body = (chunk.num_tokens - head) // size * size
        parts: list[State | None] = []
        if head:
            parts.append(self._part(row, pages[0], chunk, begin, begin + head, turns))
        if body:
            parts.append(self._keep_full(chunk, head, body, pages, turns))
            self._open.turn_page(row)
        if head + body < chunk.num_tokens:
            parts.append(self._part(row, pages[-1], chunk, begin + head + body, chunk.end, turns))
        return parts

    def _part(
        self, row: int, page: int, chunk: Chunk, begin: int, end: int, turns: TurnMap
    ) -> State | None:
        """Puts tokens of a chunk into an open page; the state of those that the scope reads."""
        if self.scope == "response":  # which keeps none
            return self._read(chunk, begin, end, turns)
        first = chunk.first - chunk.start
        return self._open.take(OpenPart(row, page, first, begin, end, turns), self.values)

    def _keep_full(
        self, chunk: Chunk, head: int, body: int, pages: Sequence[int], turns: TurnMap
    ) -> State | None:
        """Folds the pages that a chunk fills from end to end; what the scope reads of them."""
        if self.scope == "response":
            start = chunk.start + head
            return self._read(chunk, start, start + body, turns)
        size, first = self.page_tokens, (chunk.start + head) // self.page_tokens
        numbers = pages[head : head + body : size]
        pieces = [turns.pieces(self.scope, first + i) for i in range(len(numbers))]
        bits = [[piece.bits for piece in some] for some in pieces]
        flat = [piece for some in pieces for piece in some]
        if not flat:
            self._pages.store(numbers, bits, {})
            return None
        begin = chunk.first + head
        values = self.values.between(begin, begin + body)[:, 0].unflatten(1, (-1, size))
        places = [i for i, some in enumerate(pieces) for _ in some]
        if places != list(range(len(numbers))):
            values = values.index_select(1, upload(places, values.device))
        states = summary(self.fold, values, [piece.bits for piece in flat])
        self._pages.store(numbers, bits, states)
        wanted = [i for i, piece in enumerate(flat) if piece.wanted]
        if not wanted:
            return None
        if len(wanted) < len(flat):
            states = pick(states, upload(wanted, values.device))
        return reduce_rows(self.fold, states)

    def _read(self, chunk: Chunk, begin: int, end: int, turns: TurnMap) -> State | None:
        """The state of those tokens of a chunk that the scope reads; None for none."""
        if not (bits := turns.bits(self.scope, begin, end)):
            return None
        first = chunk.first - chunk.start
        return summary(self.fold, self.values.between(first + begin, first + end), [bits])
