"""Gates of all groups in one launch, where answers go on by single tokens on an accelerator.

Knows how gates lie in memory; what is computed with them is `gate_kernel`'s.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pillion.probe.gate import GateFold
from pillion.probe.softmax import FLOOR
from pillion.sidecache.paged_group import PagedGroup
from pillion.sidecache.pieces import DecodePlan
from pillion.sidecache.upload import upload

SWITCH = "PILLION_FUSED"
"""Of the environment: 1 lets the kernel run, which tests compile and no GPU has run yet."""


def can_fuse(device: torch.device) -> bool:
    """Whether the kernel runs there: on CUDA, with Triton, where the environment asks for it."""
    asked = os.environ.get(SWITCH) == "1"
    return asked and device.type == "cuda" and find_spec("triton") is not None


def kernel() -> Any:
    """The kernel; Triton is there where it runs, and not everywhere."""
    from pillion.sidecache.gate_kernel import gates

    return gates


class FusedGates:
    """Gates that read the decoded tokens together.

    Args:
        groups: of gates, whose values lie in memory that every step shares.
    """

    def __init__(self, groups: Sequence[PagedGroup]) -> None:
        self._groups = list(groups)
        self._folds: list[GateFold] = [one.fold for one in groups if isinstance(one.fold, GateFold)]
        self._units: Tensor | None = None
        self._rows: list[int] = []
        sizes = [
            (heads, columns.stop - columns.start)
            for fold in self._folds
            for heads, columns in zip(fold.heads_of, fold.columns, strict=True)
        ]
        self._num_units = len(sizes)
        self._most = [1 << (max(some) - 1).bit_length() for some in zip(*sizes, strict=True)]

    @staticmethod
    def may(one: PagedGroup) -> bool:
        """Whether a group can be one of them."""
        return isinstance(one.fold, GateFold) and one.values.places is not None

    def run(self, plans: Sequence[DecodePlan]) -> list[Float[Tensor, "answer output"]]:
        """Does what was planned for one token of each answer; logits of the rows, group by group.

        Args:
            plans: of each group.
        """
        lists: list[Any] = []
        header, begin, end = list[int](), 3 * len(plans), 0
        for fold, plan in zip(self._folds, plans, strict=True):
            places = 2 * plan.places
            places[plan.begins] += 1
            lists += [plan.tokens, plan.rows + 1, places]
            header += [begin, len(plan.answers), end]
            begin += 3 * len(plan.answers)
            end += len(plan.answers) * len(fold.bias)
        device, places = self._folds[0].bias.device, self._groups[0].values.places
        out = torch.empty(end, device=device)
        if end:
            numbers = upload(np.concatenate([np.array(header), *lists]), device)
            grid = max(len(plan.answers) for plan in plans), self._num_units
            heads, labels = self._most
            kernel()[grid](self._table(), numbers, places, out, heads, labels, FLOOR)
        found: list[Tensor] = []
        for count, at, fold in zip(header[1::3], header[2::3], self._folds, strict=True):
            width = len(fold.bias)
            found.append(out[at : at + count * width].view(count, width))
        return found

    def _table(self) -> Tensor:
        """What the kernel has to know of each network; see `gates` for the order."""
        memory = [one.memory() for one in self._groups]
        rows = [row.data_ptr() for row, _ in memory]
        if self._units is None or rows != self._rows:  # more room was made
            each: list[int] = []
            for i, (one, fold) in enumerate(zip(self._groups, self._folds, strict=True)):
                each += _units(i, one, fold)
            self._units, self._rows = upload(np.array(each), self._folds[0].bias.device), rows
        return self._units


def _units(index: int, one: PagedGroup, fold: GateFold) -> list[int]:
    rows, pages = one.memory()
    values = one.values.shared
    found: list[int] = []
    head = column = 0
    for heads, own in zip(fold.heads_of, fold.columns, strict=True):
        labels = own.stop - own.start
        found += [index, rows.data_ptr(), pages.data_ptr(), values.data_ptr()]
        found += [values.stride(0), values.stride(1)]
        found += [len(values), fold.num_heads, len(fold.head_of_column)]
        found += [head, heads, column, labels, int(fold.tanh)]
        found += [len(fold.bias), fold.bias.data_ptr() + 4 * own.start, own.start]
        head, column = head + heads, column + heads * (1 + labels)
    return found
