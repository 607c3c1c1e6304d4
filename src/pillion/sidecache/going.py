"""Single tokens of answers: all groups plan on the host, then the device does what was planned.

Knows groups and what they planned; neither pages nor scopes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pillion.sidecache.fused import Fused, can_fuse
from pillion.sidecache.lanes import Going, Numbers
from pillion.sidecache.paged_group import PagedGroup
from pillion.sidecache.pieces import Plan
from pillion.sidecache.upload import upload

Grown = tuple[PagedGroup, Numbers, Tensor]
"""A group, which answers it has heard, and logits of their rows."""


class Grower:
    """Reads one token of each answer.

    Args:
        groups: all of them.
        fuses: whether gates go on in one kernel; None for wherever it runs.
    """

    def __init__(self, groups: Sequence[PagedGroup], fuses: bool | None = None) -> None:
        if fuses is None:
            fuses = bool(groups) and can_fuse(groups[0].group.own.device)
        self._fused = [one for one in groups if fuses and Fused.may(one)]
        self._others = [one for one in groups if one not in self._fused]
        self._kernel = Fused(self._fused) if self._fused else None

    def go_on(self, going: Going) -> list[Grown]:
        """What every group has to say that has heard something."""
        found: list[Grown] = []
        if self._kernel is not None:
            plans = [one.plan(going) for one in self._fused]
            every = self._kernel.go_on(plans)
            each = zip(self._fused, plans, every, strict=True)
            found += [(one, plan.heard, logits) for one, plan, logits in each if len(logits)]
        if self._others:
            plans = [one.plan(going) for one in self._others]
            found += _grow(self._others, going, plans)
        return found


def _grow(groups: Sequence[PagedGroup], going: Going, plans: Sequence[Plan]) -> list[Grown]:
    numbers = [one.numbers(plan) for one, plan in zip(groups, plans, strict=True)]
    lists = [one for own in numbers for one in own]
    # All places in one copy to the device.
    every = upload(np.concatenate(lists), groups[0].group.own.device)
    parts = iter(torch.split_with_sizes(every, [len(numbers) for numbers in lists]))
    found: list[Grown] = []
    for one, plan, own in zip(groups, plans, numbers, strict=True):
        if (logits := one.grow(going, plan, [next(parts) for _ in own])) is not None:
            found.append((one, plan.heard, logits))
    return found
