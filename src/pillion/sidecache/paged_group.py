"""The side cache of the probes of one group: folded pieces of full pages, open pages' values.

Knows rows (one a request), pages, chunks and whose words they are; no engine and no verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pillion.backends.paged import Chunk
from pillion.core import ANSWER_SCOPES, Scope
from pillion.probe.group import Group
from pillion.probe.network import State, pick
from pillion.sidecache.folds import Folds, reduce_rows
from pillion.sidecache.pages import Pages
from pillion.sidecache.script import Piece, Script
from pillion.sidecache.step_values import StepValues
from pillion.sidecache.upload import upload


class PagedGroup:
    """What the probes of a group keep of all requests.

    A page that is full is folded to one state for each turn of the scope in it, under the page's
    own number: whoever gets the page from the engine gets the states with it, and merges those that
    are its own words. The values of a page that is still open lie in its request's row. Beside them
    each row has a running fold: of the prompt, then of the answer.

    Args:
        one: taps and fold.
        num_pages: of the engine's cache.
        page_tokens: tokens a page.
        memory: `page_numbers` of fp32 for each page, where the engine gives them.
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
        self.values = StepValues(one)
        empty = one.empty_values(len(self.layers), 1, page_tokens).zero_()
        # No one asks for another's answer: its pages keep nothing.
        kept_pages = 0 if self.scope == "response" else num_pages
        self._pages = Pages(self._summary(empty), kept_pages, memory)
        self._open = empty[:, []]
        self._folds = Folds(self.fold, empty[:, :, :1])
        self.idle = False

    @property
    def held_bytes(self) -> int:
        """Memory of taps, pages and rows, in bytes."""
        return self.group.weight_bytes + self._pages.held_bytes + self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Memory of the rows alone, in bytes."""
        return self._open.nbytes + self._folds.held_bytes

    def make_room(self, num_rows: int) -> None:
        """From now on there are so many rows, or more."""
        self._folds.make_room(num_rows)
        if num_rows > self._open.shape[1]:
            layers, have, tokens, taps = self._open.shape
            more = self._open.new_zeros(layers, num_rows - have, tokens, taps)
            self._open = torch.cat([self._open, more], 1)

    # -- in the order of a step

    def begin(self, chunks: Sequence[Chunk], scripts: Sequence[Script]) -> None:
        """A step begins; only words of the scope have to be tapped."""
        if self.scope == "all":
            return
        read = [
            (chunk.first, script.bits(self.scope, chunk.start, chunk.end, every_turn=True))
            for chunk, script in zip(chunks, scripts, strict=True)
        ]
        self.idle = not any(bits for _, bits in read)
        self.values.choose(read)

    def restart(self, row: int, pages: Sequence[int], script: Script) -> bool:
        """The row's fold is that of whole pages from here on.

        Returns:
            whether what is kept of the pages tells the words of the scope apart.
        """
        self._folds.reset(row)
        places: list[int] = []
        for index, page in enumerate(pages):
            begin = index * self.page_tokens
            bits = script.bits(self.scope, begin, begin + self.page_tokens)
            if (found := self._pages.find(page, bits)) is None:
                return False
            places += found
        if places:
            self._folds.put(row, reduce_rows(self.fold, self._pages.states(places)))
        return True

    def take(
        self, row: int, chunk: Chunk, pages: Sequence[int], script: Script, skip: int | None
    ) -> None:
        """Reads a chunk of any length.

        Args:
            row: of its request.
            chunk: where its tokens are.
            pages: of each of its tokens.
            script: of its request.
            skip: how many of its tokens the row's fold holds already; None to fold none.
        """
        new = self._keep(row, chunk, pages, script)
        if skip is None or skip == chunk.num_tokens:
            return
        if skip:
            new = [self._read(chunk, chunk.start + skip, chunk.end, script)]
        for state in new:
            if state is not None:
                self._folds.add(row, state)

    def take_each(
        self,
        rows: Sequence[int],
        chunks: Sequence[Chunk],
        pages: Sequence[int],
        scripts: Sequence[Script],
    ) -> tuple[list[int], Float[Tensor, "heard output"] | None]:
        """Reads one token of each answer.

        Returns:
            which of them the scope reads, and logits of their rows' folds; None for none.
        """
        heard = self._heard(chunks, scripts)
        offsets = [chunk.start % self.page_tokens for chunk in chunks]
        new: State = {}
        if heard:
            some = [rows[i] for i in heard], [offsets[i] for i in heard]
            places = upload([[chunks[i].first for i in heard], *some], self._open.device)
            values = self.values.at(places[0])
            self._open[:, places[1], places[2]] = values
            new = self._summary(values[:, :, None])
        if full := [i for i, offset in enumerate(offsets) if offset == self.page_tokens - 1]:
            indices = [chunks[i].start // self.page_tokens for i in full]
            found = [
                script.pieces(self.scope, index)
                for script, index in zip((scripts[i] for i in full), indices, strict=True)
            ]
            self._close([pages[i] for i in full], found, self._open, [rows[i] for i in full])
        return heard, self._folds.add_each([rows[i] for i in heard], new) if heard else None

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

    def _heard(self, chunks: Sequence[Chunk], scripts: Sequence[Script]) -> list[int]:
        """Which tokens of answers, one a chunk, the scope reads."""
        if self.scope == "all":
            return list(range(len(chunks)))
        if self.idle or self.scope not in ANSWER_SCOPES:
            return []
        each = enumerate(zip(chunks, scripts, strict=True))
        return [i for i, (c, script) in each if script.bits(self.scope, c.start, c.end)]

    def _keep(
        self, row: int, chunk: Chunk, pages: Sequence[int], script: Script
    ) -> list[State | None]:
        """Puts a chunk into its open page and the full ones; the states of what the scope reads."""
        size, begin = self.page_tokens, chunk.start
        offset = begin % size
        head = min(chunk.num_tokens, size - offset) if offset else 0
        body = (chunk.num_tokens - head) // size * size
        parts: list[State | None] = []
        if head:
            self._write(row, offset, chunk, begin, begin + head)
            parts.append(self._read(chunk, begin, begin + head, script))
            if offset + head == size:
                pieces = [script.pieces(self.scope, begin // size)]
                self._close(pages[:1], pieces, self._open, [row])
        if body:
            parts.append(self._keep_full(chunk, head, body, pages, script))
        if head + body < chunk.num_tokens:
            self._write(row, 0, chunk, begin + head + body, chunk.end)
            parts.append(self._read(chunk, begin + head + body, chunk.end, script))
        return parts

    def _keep_full(
        self, chunk: Chunk, head: int, body: int, pages: Sequence[int], script: Script
    ) -> State | None:
        """Folds the pages that a chunk fills from end to end; what the scope reads of them."""
        if self.scope == "response":  # which keeps none
            start = chunk.start + head
            return self._read(chunk, start, start + body, script)
        size, first = self.page_tokens, (chunk.start + head) // self.page_tokens
        numbers = pages[head : head + body : size]
        pieces = [script.pieces(self.scope, first + i) for i in range(len(numbers))]
        begin, values = chunk.first + head, self._open
        if not self.idle:
            values = self.values.between(begin, begin + body)[:, 0].unflatten(1, (-1, size))
        states = self._close(numbers, pieces, values, range(len(numbers)))
        wanted = [i for i, one in enumerate(p for some in pieces for p in some) if one.wanted]
        if states is None or not wanted:
            return None
        if len(wanted) < sum(map(len, pieces)):
            states = pick(states, upload(wanted, values.device))
        return reduce_rows(self.fold, states)

    def _close(
        self,
        pages: Sequence[int],
        pieces: Sequence[Sequence[Piece]],
        values: Float[Tensor, "layer row place tap"],
        rows: Sequence[int],
    ) -> State | None:
        """Stores the pieces of full pages, whose values lie in some rows; their states."""
        bits = [[piece.bits for piece in some] for some in pieces]
        flat = [one for some in bits for one in some]
        states: State = {}
        if flat:
            places = [row for row, some in zip(rows, pieces, strict=True) for _ in some]
            if places != list(range(values.shape[1])):
                values = values.index_select(1, upload(places, values.device))
            states = self._summary(values, flat)
        self._pages.store(pages, bits, states)
        return states or None

    def _write(self, row: int, offset: int, chunk: Chunk, begin: int, end: int) -> None:
        """Keeps tokens of a chunk in the row's open page."""
        if not self.idle:
            first = chunk.first - chunk.start
            values = self.values.between(first + begin, first + end)[:, 0]
            self._open[:, row, offset : offset + end - begin] = values

    def _read(self, chunk: Chunk, begin: int, end: int, script: Script) -> State | None:
        """The state of those tokens of a chunk that the scope reads; None for none."""
        if not (bits := script.bits(self.scope, begin, end)):
            return None
        first = chunk.first - chunk.start
        return self._summary(self.values.between(first + begin, first + end), [bits])

    def _summary(
        self, values: Float[Tensor, "layer batch token tap"], bits: Sequence[int] | None = None
    ) -> State:
        """Folds rows of values; of each, the tokens of its bits."""
        batch, tokens = values.shape[1:3]
        mask = torch.ones(batch, tokens, dtype=torch.bool, device=values.device)
        if bits is None or all(one == (1 << tokens) - 1 for one in bits):
            return self.fold.summarise(values, mask)
        mask = _mask(bits, tokens, values.device)
        # What is left out may be of another step or not finite.
        return self.fold.summarise(values.masked_fill(~mask[None, :, :, None], 0), mask)


def _mask(bits: Sequence[int], tokens: int, device: torch.device) -> Bool[Tensor, "row token"]:
    return upload([[bool(one >> i & 1) for i in range(tokens)] for one in bits], device)
