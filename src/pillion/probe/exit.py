"""When a text that is only classified needs no deeper layers: what a card says of it, and the rule.

Promises the same rule where bands are chosen and where they are applied. Does not know how bands
were chosen, nor what runs the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, JsonValue
from torch import Tensor

from pillion.core.strict import Strict
from pillion.probe.calibration import Calibration
from pillion.probe.decisions import Band
from pillion.probe.task import Task


class ExitRead(Strict):
    """A depth at which texts may leave.

    Attributes:
        depth: the last layer that is read.
        calibration: how logits of this depth become probabilities; None for the plain sigmoid or
            softmax.
        bands: one an output: a text whose probability lies in it stays. For multi-class the largest
            probability decides, for multi-label every one has to lie outside.
    """

    depth: Annotated[int, Field(ge=0)]
    calibration: Calibration | None = None
    bands: tuple[Band, ...]


class Exit(Strict):
    """Where texts may leave, from the lowest depth up.

    Attributes:
        reads: the depths.
        patience: so many depths in a row that decide alike let a text leave too (PABEE, arXiv
            2006.04152); None for no such rule.
        found: how the bands were chosen, on which rows, and what they gave there.
    """

    reads: tuple[ExitRead, ...] = Field(min_length=1)
    patience: Annotated[int, Field(ge=2)] | None = None
    found: dict[str, JsonValue]

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers at which texts may leave."""
        return tuple(read.depth for read in self.reads)

    def fault(self, task: Task, num_outputs: int, depths: Sequence[int]) -> str:
        """What does not fit a probe of such a task with read-outs at these depths; else empty."""
        if list(self.depths) != sorted(set(self.depths)) or not set(self.depths) <= set(depths):
            return f"depths {list(self.depths)} are not rising ones of the probe's {list(depths)}"
        for read in self.reads:
            if len(read.bands) != num_outputs:
                return f"{len(read.bands)} bands of depth {read.depth} for {num_outputs} outputs"
            if any(not 0 <= low <= high <= 1 for low, high in read.bands):
                return f"bands of depth {read.depth}: from low to high, within 0 to 1, is meant"
            if read.calibration is not None and (
                fault := read.calibration.fault(task, num_outputs)
            ):
                return f"{fault} of depth {read.depth} do not fit {num_outputs} outputs"
        return ""


def decided(
    task: Task, probs: Float[Tensor, "batch output"], thresholds: Sequence[float] | None
) -> Int[Tensor, "batch decision"]:
    """What each row is decided to be: the likeliest label, or 0 or 1 an output.

    Args:
        task: what the probabilities mean.
        probs: of some depth.
        thresholds: of the card; None means 0.5.
    """
    if task == "multiclass":
        return probs.argmax(1, keepdim=True)
    lines = torch.tensor(thresholds or (0.5,) * probs.shape[1], dtype=torch.float64)
    return (probs.double() >= lines.to(probs.device)).long()


def beyond(
    task: Task, probs: Float[Tensor, "batch output"], bands: Sequence[Band]
) -> Bool[Tensor, " batch"]:
    """Which rows leave by the bands of a depth; as `decisions.abstains`, of many rows."""
    low, high = torch.tensor(bands, dtype=torch.float64, device=probs.device).T
    inside = (low <= probs.double()) & (probs.double() < high)
    if task == "multiclass":
        return ~inside.gather(1, probs.argmax(1, keepdim=True))[:, 0]
    return ~inside.any(1)


class Agreement:
    """Counts how many depths in a row have decided alike, of every row of a batch.

    Args:
        patience: of the card; None: no row leaves by agreement.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self._last: Tensor | None = None
        self._count: Tensor | None = None

    def more(self, now: Int[Tensor, "batch decision"]) -> Bool[Tensor, " batch"]:
        """One more depth; which rows may leave behind it."""
        ones = torch.ones(len(now), dtype=torch.long, device=now.device)
        if self._last is None or self._count is None:
            self._count = ones
        else:
            self._count = torch.where((now == self._last).all(1), self._count + 1, ones)
        self._last = now
        if self.patience is None:
            return torch.zeros(len(now), dtype=torch.bool, device=now.device)
        return self._count >= self.patience

    def pick(self, rows: Int[Tensor, " row"]) -> None:
        """Some rows alone go on."""
        if self._last is not None and self._count is not None:
            self._last, self._count = self._last[rows], self._count[rows]
