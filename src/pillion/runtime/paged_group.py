"""The side cache of the probes of one group: a folded state of every full page, open pages' values.

Knows rows (one a request), pages and chunks; knows no engine and no verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.backends.paged import Chunk
from pillion.probe.network import State
from pillion.runtime.folds import Folds, reduce_rows
from pillion.runtime.group import Group


class PagedGroup:
    """What the probes of a group keep of all requests.

    A page that is full is folded to one state, in a place of the page's own number: whoever gets
    the page from the engine gets the state with it. The values of a page that is still open lie in
    its request's row. Beside them each row has a running fold: of the prompt, then of the answer.

    Args:
        one: taps and fold.
        num_pages: of the engine's cache.
        page_tokens: tokens a page.
    """

    def __init__(self, one: Group, num_pages: int, page_tokens: int) -> None:
        self.group, self.fold, self.page_tokens = one, one.fold, page_tokens
        self.layers, self.artefacts, self.columns = one.layers, one.artefacts, one.fold.columns
        self._place = {layer: i for i, layer in enumerate(one.layers)}
        self._values = one.empty_values(len(self.layers), 1, page_tokens).zero_()
        page = self._summary(self._values)
        self._pages = {n: t.new_zeros(t.shape[0], num_pages, *t.shape[2:]) for n, t in page.items()}
        self._open = self._values[:, :0]
        self._folds = Folds(self.fold, self._values[:, :, :1])

    @property
    def held_bytes(self) -> int:
        """Memory of taps, pages and rows, in bytes."""
        kept = [self._open, *self._pages.values()]
        bytes_kept = sum(t.numel() * t.element_size() for t in kept)
        return self.group.weight_bytes + bytes_kept + self._folds.held_bytes

    def make_room(self, num_rows: int) -> None:
        """From now on there are so many rows, or more."""
        self._folds.make_room(num_rows)
        if num_rows > self._open.shape[1]:
            layers, have, tokens, taps = self._open.shape
            more = self._open.new_zeros(layers, num_rows - have, tokens, taps)
            self._open = torch.cat([self._open, more], 1)

    # -- in the order of a step

    def see(self, layer: int, hidden: Float[Tensor, "1 token dim"]) -> None:
        """Taps one layer of a step."""
        if (place := self._place.get(layer)) is None:
            return
        if place == 0:
            self._values = self.group.empty_values(len(self.layers), 1, hidden.shape[1])
        self.group.layer_values(place, hidden, self._values[place])

    def see_all(self, every: Float[Tensor, "seen 1 token dim"], layers: tuple[int, ...]) -> None:
        """Taps several layers of a step at once.

        Args:
            every: states of `layers`.
            layers: which layers they are, all that the group reads or the next ones of them.
        """
        if (found := self.group.own_values(layers, every)) is None:
            return
        own, values = found
        first = own[0] == self.layers[0]
        self._values = values if first else torch.cat([self._values, values])

    def restart(self, row: int, pages: Sequence[int]) -> None:
        """The row's fold is that of whole pages from here on."""
        if not pages:
            self._folds.reset(row)
            return
        index = torch.tensor(pages, device=self._values.device)
        found = {name: tensor.index_select(1, index) for name, tensor in self._pages.items()}
        self._folds.put(row, reduce_rows(self.fold, found))

    def take(self, row: int, chunk: Chunk, pages: Sequence[int], skip: int | None) -> None:
        """Reads a chunk of any length.

        Args:
            row: of its request.
            chunk: where its tokens are.
            pages: of each of its tokens.
            skip: how many of its tokens the row's fold holds already; None to fold none.
        """
        values = self._values[:, :, chunk.first : chunk.first + chunk.num_tokens]
        summary = self._keep(row, chunk.start, values, pages)
        if skip is None:
            return
        if skip:
            if skip == chunk.num_tokens:
                return
            summary = self._summary(values[:, :, skip:])
        self._folds.add(row, summary)

    def take_each(
        self, rows: Sequence[int], chunks: Sequence[Chunk], pages: Sequence[int]
    ) -> Float[Tensor, "row output"]:
        """Reads one token of each; logits of the rows' folds with it."""
        device = self._values.device
        places = torch.tensor([chunk.first for chunk in chunks], device=device)
        values = self._values[:, 0].index_select(1, places)
        offsets = [chunk.start % self.page_tokens for chunk in chunks]
        where = torch.tensor([rows, offsets], device=device)
        self._open[:, where[0], where[1]] = values
        full = [i for i, offset in enumerate(offsets) if offset == self.page_tokens - 1]
        if full:
            closed = self._open[:, [rows[i] for i in full]]
            self._store([pages[i] for i in full], self._summary(closed))
        return self._folds.add_each(rows, self._summary(values[:, :, None]))

    def logits(self, rows: Sequence[int]) -> Float[Tensor, "row output"]:
        """Logits of some rows' folds."""
        return self._folds.logits(rows)

    def reset(self, row: int) -> None:
        """The row's fold begins anew."""
        self._folds.reset(row)

    def fault(self, chunk: Chunk) -> tuple[int, int] | None:
        """Layer and token of the first value in a chunk that is not finite."""
        values = self._values[:, 0, chunk.first : chunk.first + chunk.num_tokens]
        wrong = (~torch.isfinite(values)).any(-1).nonzero().tolist()
        return next(((self.layers[place], token) for place, token in wrong), None)

    # -- inside

    def _keep(
        self, row: int, start: int, values: Float[Tensor, "layer 1 token tap"], pages: Sequence[int]
    ) -> State:
        """Puts a chunk into its open page and the full ones; the state of the whole chunk."""
        tokens, size = values.shape[2], self.page_tokens
        offset = start % size
        head = min(tokens, size - offset) if offset else 0
        body = (tokens - head) // size * size
        parts: list[State] = []
        if head:
            self._open[:, row, offset : offset + head] = values[:, 0, :head]
            parts.append(self._summary(values[:, :, :head]))
            if offset + head == size:
                self._store(pages[:1], self._summary(self._open[:, row : row + 1]))
        if body:
            full = self._summary(values[:, 0, head : head + body].unflatten(1, (-1, size)))
            self._store(pages[head : head + body : size], full)
            parts.append(reduce_rows(self.fold, full))
        if rest := tokens - head - body:
            self._open[:, row, :rest] = values[:, 0, head + body :]
            parts.append(self._summary(values[:, :, head + body :]))
        whole = parts[0]
        for part in parts[1:]:
            whole = self.fold.merge(whole, part)
        return whole

    def _store(self, pages: Sequence[int], states: State) -> None:
        index = torch.tensor(pages, device=self._values.device)
        for name, tensor in states.items():
            self._pages[name].index_copy_(1, index, tensor)

    def _summary(self, values: Float[Tensor, "layer batch token tap"]) -> State:
        mask = torch.ones(values.shape[1:3], dtype=torch.bool, device=values.device)
        return self.fold.summarise(values, mask)
