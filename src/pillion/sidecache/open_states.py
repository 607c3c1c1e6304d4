"""Open pages of folds whose states have one size: they grow in the pages' places.

Knows pages, pieces and values; neither requests nor steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pillion.core import Scope
from pillion.probe.network import State, pick
from pillion.sidecache.folds import Folds, reduce_rows
from pillion.sidecache.pages import Pages
from pillion.sidecache.pieces import DecodePlan, OpenPart, summary
from pillion.sidecache.step_values import StepValues
from pillion.sidecache.tracked import DecodeBatch, Numbers
from pillion.sidecache.turn_map import TurnPiece, ones
from pillion.sidecache.upload import upload

NONE, NEXT = -1, -2
"""In the place of a place: not kept; none yet, for no token of the piece has run."""


class OpenStates:
    """Pieces of open pages have their places already, and their states grow there.

    Args:
        folds: of the rows, whose states have one size.
        pages: where pieces lie.
        scope: which turns they hold.
        page_tokens: tokens a page.
    """

    def __init__(self, folds: Folds, pages: Pages, scope: Scope, page_tokens: int) -> None:
        self._folds, self._pages, self._size = folds, pages, page_tokens
        self._scope: Scope = scope
        # Of each row's open page, the place of the piece that its answer goes on with.
        self._answers = np.zeros(0, np.int64)

    nbytes = 0

    def make_room(self, num_rows: int) -> None:
        """From now on there are so many rows, or more."""
        more = max(num_rows - len(self._answers), 0)
        self._answers = np.append(self._answers, np.full(more, NEXT))

    def turn_page(self, row: int) -> None:
        """The row's next token begins a page."""
        self._answers[row] = NEXT

    def take(self, part: OpenPart, values: StepValues) -> State | None:
        """Reads tokens of a step into their page; the state of those that the scope reads."""
        row, page, first, begin, end, turns = part
        index, offset = divmod(begin, self._size)
        bits = ones(end - begin) << offset
        if not offset and self._scope != "all":
            self._pages.begin(page)
        pieces = turns.pieces(self._scope, index)
        some = [(i, piece) for i, piece in enumerate(pieces) if piece.bits & bits]
        state = None
        self.turn_page(row)
        if some:
            own = values.between(first + begin, first + end).expand(-1, len(some), -1, -1)
            of_each = [(piece.bits & bits) >> offset for _, piece in some]
            states = summary(self._folds.fold, own, of_each)
            wanted: list[int] = []
            for at, (i, piece) in enumerate(some):
                one = {name: tensor[:, at : at + 1] for name, tensor in states.items()}
                self._merge(page, i, one, begins=not piece.bits & ones(offset))
                wanted += [at] if piece.wanted else []
            if len(wanted) < len(some):
                states = pick(states, upload(wanted, own.device)) if wanted else {}
            state = reduce_rows(self._folds.fold, states) if wanted else None
        if end % self._size == 0:
            self._close(page, pieces)
        elif pieces and pieces[-1].of_answer and pieces[-1].bits & ones(offset + end - begin):
            self._answers[row] = self._place(page, len(pieces) - 1)
        return state

    def plan(self, decodes: DecodeBatch, answers: Numbers) -> DecodePlan:
        """Finds the places of one token of each answer.

        Args:
            decodes: the answers.
            answers: which of them the scope reads.
        """
        tokens, rows = decodes.tokens[answers], decodes.rows[answers]
        if self._scope == "response":  # which keeps no pages
            return DecodePlan(answers, tokens, rows, np.full(len(rows), NONE), [])
        return DecodePlan(answers, tokens, rows, *self._places(decodes, answers, rows))

    def numbers(self, plan: DecodePlan) -> list[Numbers]:
        """What the device has to know of a plan.

        Returns:
            Tokens of each row, then of each piece that begins, then of each that goes on; where the
            states before the first two kinds lie among the rows; and before the third among the
            pages; places of the second and third.
        """
        tokens, rows, places, begins = plan.tokens, plan.rows + 1, plan.places, plan.begins
        of_answer = places >= 0
        of_answer[begins] = False
        kept, of_kept = places[of_answer], tokens[of_answer]
        if not len(begins):
            return [np.concatenate([tokens, of_kept]), rows, kept, kept]
        # The rows' memory begins with the state of no token.
        before = np.concatenate([rows, np.zeros(len(begins), np.int64)])
        every = np.concatenate([tokens, tokens[begins], of_kept])
        return [every, before, kept, np.concatenate([places[begins], kept])]

    def _places(
        self, decodes: DecodeBatch, answers: Numbers, rows: Numbers
    ) -> tuple[Numbers, Numbers | list[int]]:
        """Where the pieces of those that are answers lie, and which of them begin and are kept."""
        if self._scope == "all":
            for _, page, _ in decodes.filling:
                self._pages.keep(page, ones(self._size))
            return decodes.pages, decodes.beginning
        for i in decodes.beginning:
            self._pages.begin(int(decodes.pages[i]))
        places = self._answers[rows]
        begins = np.flatnonzero(places == NEXT)
        if len(begins):
            for i in begins.tolist():
                places[i] = self._place(int(decodes.pages[answers[i]]))
            self._answers[rows] = places
        for i, page, index in decodes.filling:
            tracked = decodes.tracked[i]
            self._close(page, tracked.turns.pieces(self._scope, index))
            self._answers[tracked.row] = NEXT
        return places, begins[places[begins] >= 0]

    def run(
        self, decodes: DecodeBatch, values: StepValues, plan: DecodePlan, numbers: Sequence[Tensor]
    ) -> Float[Tensor, "answer output"] | None:
        """Merges one token of each answer into its row and into its page; logits of the rows."""
        if not len(plan.answers):
            return None
        tokens, before, of_answer, pages = numbers
        states = self._folds.memory.index_select(0, before)
        if len(of_answer):
            states = torch.cat([states, self._pages.memory.index_select(0, of_answer)])
        packing, num_rows = self._folds.packing, len(plan.answers)
        new = self._folds.fold.of_tokens(values.at(tokens))
        after = packing.pack(self._folds.fold.merge(packing.unpack(states), new))
        rows = after[:num_rows]
        self._folds.memory.index_copy_(0, before[:num_rows], rows)
        if len(pages):
            self._pages.memory.index_copy_(0, pages, after[num_rows:])
        return self._folds.finish(rows)

    def _place(self, page: int, piece: int | None = None) -> int:
        """Where a piece lies that has begun, or (None) the next one to begin."""
        if self._scope == "all":  # whose only piece is the page
            return page
        place = self._pages.add(page) if piece is None else self._pages.place(page, piece)
        return NONE if place is None else place

    def _close(self, page: int, pieces: Sequence[TurnPiece]) -> None:
        if self._scope == "all":
            self._pages.keep(page, pieces[0].bits)
        else:
            self._pages.close(page, [piece.bits for piece in pieces])

    def _merge(self, page: int, piece: int, state: State, begins: bool) -> None:
        """A piece begins with a state, or goes on by it."""
        place = self._place(page, None if begins else piece)
        if place == NONE:
            return
        if not begins:
            state = self._folds.fold.merge(self._pages.states([place]), state)
        self._pages.put(place, state)
