"""What open pages have in common: plans of single tokens, and folds of the pieces of a page.

Knows places, values and bits; neither pages nor rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from pillion.probe.network import Fold, State
from pillion.probe.tensors import Values
from pillion.sidecache.tracked import Numbers
from pillion.sidecache.turn_map import TurnMap, ones
from pillion.sidecache.upload import upload


class DecodePlan(NamedTuple):
    """Where one token of each answer goes in a group: a place for each answer that the scope reads.

    Attributes:
        answers: indices of the step's answers that the scope reads.
        tokens: their tokens, as the values of the step name them.
        rows: of each.
        places: where its piece of its page lies; negative where none is kept.
        begins: indices of those whose piece begins, and is kept.
    """

    answers: Numbers
    tokens: Numbers
    rows: Numbers
    places: Numbers
    begins: Numbers | list[int]


class OpenPart(NamedTuple):
    """Neighbouring tokens of one request in one open page.

    Attributes:
        row: of the request.
        page: the engine's number.
        first: place in the step of the request's first token, if it were there.
        begin: position of the first of them.
        end: position behind the last.
        turns: of the request.
    """

    row: int
    page: int
    first: int
    begin: int
    end: int
    turns: TurnMap


def summary(fold: Fold, values: Values, bits: Sequence[int] | None = None) -> State:
    """Folds rows of values; of each, the tokens of its bits."""
    batch, tokens = values.shape[1:3]
    mask = torch.ones(batch, tokens, dtype=torch.bool, device=values.device)
    if bits is None or all(one == ones(tokens) for one in bits):
        return fold.summarise(values, mask)
    mask = _mask(bits, tokens, values.device)
    # What is left out may be of another step or not finite.
    return fold.summarise(values.masked_fill(~mask[None, :, :, None], 0), mask)


def _mask(bits: Sequence[int], tokens: int, device: torch.device) -> Bool[Tensor, "row token"]:
    return upload([[bool(one >> i & 1) for i in range(tokens)] for one in bits], device)
