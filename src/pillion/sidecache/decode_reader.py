"""Single tokens of answers: all groups plan on the host, then the device does what was planned.

Knows groups and what they planned; neither pages nor scopes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pillion.sidecache.fused import FusedGates, can_fuse
from pillion.sidecache.paged_group import PagedGroup
from pillion.sidecache.pieces import DecodePlan
from pillion.sidecache.tracked import DecodeBatch, Numbers
from pillion.sidecache.upload import upload

DecodeReadout = tuple[PagedGroup, Numbers, Tensor]
"""A group, the indices of the answers that it reads, and logits of their rows."""


class DecodeReader:
    """Reads one token of each answer.

    Args:
        groups: all of them.
        fuses: whether gates go on in one kernel; None for wherever it runs.
    """

    def __init__(self, groups: Sequence[PagedGroup], fuses: bool | None = None) -> None:
        if fuses is None:
            fuses = bool(groups) and can_fuse(groups[0].group.own.device)
        self._fused = [one for one in groups if fuses and FusedGates.may(one)]
        self._others = [one for one in groups if one not in self._fused]
        self._kernel = FusedGates(self._fused) if self._fused else None

    def read(self, decodes: DecodeBatch) -> list[DecodeReadout]:
        """Reads the tokens; the logits of every group that reads any of them."""
        found: list[DecodeReadout] = []
        if self._kernel is not None:
            plans = [one.plan(decodes) for one in self._fused]
            every = self._kernel.run(plans)
            each = zip(self._fused, plans, every, strict=True)
            found += [(one, plan.answers, logits) for one, plan, logits in each if len(logits)]
        if self._others:
            plans = [one.plan(decodes) for one in self._others]
            found += _run(self._others, decodes, plans)
        return found


def _run(
    groups: Sequence[PagedGroup], decodes: DecodeBatch, plans: Sequence[DecodePlan]
) -> list[DecodeReadout]:
    numbers = [one.numbers(plan) for one, plan in zip(groups, plans, strict=True)]
    lists = [one for own in numbers for one in own]
    # All places in one copy to the device.
    every = upload(np.concatenate(lists), groups[0].group.own.device)
    parts = iter(torch.split_with_sizes(every, [len(numbers) for numbers in lists]))
    found: list[DecodeReadout] = []
    for one, plan, own in zip(groups, plans, numbers, strict=True):
        if (logits := one.run(decodes, plan, [next(parts) for _ in own])) is not None:
            found.append((one, plan.answers, logits))
    return found
