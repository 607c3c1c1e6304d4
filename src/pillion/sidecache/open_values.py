"""Open pages of folds whose states grow with their tokens: values wait in a row until it is full.

Knows pages, pieces and values; neither requests nor steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.core import Scope
from pillion.probe.network import State
from pillion.sidecache.folds import Folds
from pillion.sidecache.pages import Pages
from pillion.sidecache.pieces import DecodePlan, OpenPart, summary
from pillion.sidecache.step_values import StepValues
from pillion.sidecache.tracked import DecodeBatch, Numbers
from pillion.sidecache.turn_map import TurnPiece
from pillion.sidecache.upload import upload


class OpenValues:
    """Values of open pages, by row: of folds whose states grow with their tokens.

    Args:
        folds: of the rows.
        pages: where states of full pages go.
        scope: which turns they hold.
        empty: values of no row, and of as many tokens as a page has.
    """

    def __init__(
        self, folds: Folds, pages: Pages, scope: Scope, empty: Float[Tensor, "layer 0 token tap"]
    ) -> None:
        self._folds, self._pages = folds, pages
        self._scope: Scope = scope
        self._size, self._open = empty.shape[2], empty

    @property
    def nbytes(self) -> int:
        """Memory of the values, in bytes."""
        return self._open.nbytes

    def make_room(self, num_rows: int) -> None:
        """From now on there are so many rows, or more."""
        layers, have, tokens, taps = self._open.shape
        if num_rows > have:
            more = self._open.new_zeros(layers, num_rows - have, tokens, taps)
            self._open = torch.cat([self._open, more], 1)

    def turn_page(self, row: int) -> None:
        """Nothing: values lie in their row."""

    def take(self, part: OpenPart, values: StepValues) -> State | None:
        """Reads tokens of a step into their row; see `OpenStates.take`."""
        row, page, first, begin, end, turns = part
        (index, offset), state = divmod(begin, self._size), None
        if turns.bits(self._scope, begin, end, every_turn=True):
            own = values.between(first + begin, first + end)
            self._open[:, row, offset : offset + end - begin] = own[:, 0]
            if bits := turns.bits(self._scope, begin, end):
                state = summary(self._folds.fold, own, [bits])
        if end % self._size == 0:
            self._close([page], [turns.pieces(self._scope, index)], [row])
        return state

    def plan(self, decodes: DecodeBatch, answers: Numbers) -> DecodePlan:
        """Places in the step, rows, and places in their pages."""
        tokens, rows = decodes.tokens[answers], decodes.rows[answers]
        return DecodePlan(answers, tokens, rows, decodes.offsets[answers], [])

    def numbers(self, plan: DecodePlan) -> list[Numbers]:
        """What the device has to know of a plan."""
        return [plan.tokens, plan.rows, plan.places]

    def run(
        self, decodes: DecodeBatch, values: StepValues, plan: DecodePlan, numbers: Sequence[Tensor]
    ) -> Float[Tensor, "answer output"] | None:
        """Merges one token of each answer into its row, and keeps its values."""
        tokens, rows, offsets = numbers
        new: State = {}
        if len(plan.answers):
            own = values.at(tokens)
            self._open[:, rows, offsets] = own
            new = self._folds.fold.of_tokens(own)
        if decodes.filling and self._scope != "response":
            each = [(decodes.tracked[i], page, index) for i, page, index in decodes.filling]
            pieces = [one.turns.pieces(self._scope, index) for one, _, index in each]
            self._close([page for _, page, _ in each], pieces, [one.row for one, _, _ in each])
        return self._folds.add_each(plan.rows.tolist(), new) if new else None

    def _close(
        self, pages: Sequence[int], pieces: Sequence[Sequence[TurnPiece]], rows: Sequence[int]
    ) -> None:
        """Pages are full whose values lie in some rows."""
        bits = [[piece.bits for piece in some] for some in pieces]
        flat = [one for some in bits for one in some]
        states: State = {}
        if flat:
            own = [row for row, some in zip(rows, pieces, strict=True) for _ in some]
            values = self._open.index_select(1, upload(own, self._open.device))
            states = summary(self._folds.fold, values, flat)
        self._pages.store(pages, bits, states)
