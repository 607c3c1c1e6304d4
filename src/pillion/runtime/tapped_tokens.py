"""Which tokens of a pass are tapped, and where their values go: one row a sequence, in its order.

Knows neither probes nor engines.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Step


@dataclass(frozen=True)
class TappedTokens:
    """Tokens of a pass that are tapped, sequence by sequence.

    Attributes:
        rows: sequence of each, rising.
        places: of each among those of its sequence.
        columns: of each in its row of the batch, or in its sequence of a packed one.
        mask: which places of the sequences hold one.
        index: of each in the batch, flattened; None where all are tapped.
    """

    rows: Int[Tensor, " token"]
    places: Int[Tensor, " token"]
    columns: Int[Tensor, " token"]
    mask: Bool[Tensor, "row place"]
    index: Int[Tensor, " token"] | None = None

    @classmethod
    def packed(cls, step: Step) -> TappedTokens:
        """All tokens of a packed step."""
        rows = step.sequences
        assert rows is not None
        places, mask = _side_by_side(rows, int(rows.max()) + 1)
        return cls(rows, places, places, mask)

    @classmethod
    def chosen(cls, mask: Bool[Tensor, "row place"], packed: TappedTokens | None) -> TappedTokens:
        """Some tokens of a step.

        Args:
            mask: which ones, a row a sequence.
            packed: where the step's tokens are, if it is packed.
        """
        if packed is None:
            index = mask.flatten().nonzero()[:, 0]
            rows, columns = index // mask.shape[1], index % mask.shape[1]
        else:
            index = mask[packed.rows, packed.places].nonzero()[:, 0]
            rows, columns = packed.rows[index], packed.columns[index]
        places, own = _side_by_side(rows, len(mask))
        return cls(rows, places, columns, own, index)

    def among(
        self, mask: Bool[Tensor, "row column"], packed: TappedTokens | None
    ) -> Bool[Tensor, "row place"]:
        """Which places hold a token of another mask; arguments as those of `chosen`."""
        assert self.index is not None
        found = mask.flatten() if packed is None else mask[packed.rows, packed.places]
        out = torch.zeros_like(self.mask)
        out[self.rows, self.places] = found[self.index]
        return out

    def take(self, hidden: Float[Tensor, "batch chunk dim"]) -> Float[Tensor, "1 token dim"]:
        """States of the tokens; index must be known."""
        assert self.index is not None
        return hidden.flatten(0, 1).index_select(0, self.index)[None]

    def spread(
        self, values: Float[Tensor, "layer 1 token tap"]
    ) -> Float[Tensor, "layer row place tap"]:
        """Values of the tokens, one row a sequence."""
        if len(self.mask) == 1:
            return values
        out = values.new_zeros(values.shape[0], *self.mask.shape, values.shape[-1])
        out[:, self.rows, self.places] = values[:, 0]
        return out


def _side_by_side(
    rows: Int[Tensor, " token"], num_rows: int
) -> tuple[Int[Tensor, " token"], Bool[Tensor, "row place"]]:
    """The place of each token among those of its row, and which places hold one."""
    lengths = torch.bincount(rows, minlength=num_rows)
    starts = lengths.cumsum(0) - lengths
    steps = torch.arange(len(rows), device=rows.device)
    longest = torch.arange(int(lengths.max()), device=rows.device)
    return steps - starts[rows], longest < lengths[:, None]
