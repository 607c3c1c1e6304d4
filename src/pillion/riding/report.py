"""Logits on their way from a worker to the scheduler, without waiting for the device.

The copy off the device is started in the worker and waited for where the numbers are needed: in the
scheduler's thread, or where the report is pickled for another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pillion.sidecache import GroupReadout, PendingReadouts

LogitsByProbe = dict[str, list[float]]
"""Probe name -> its logits; without probes that have read no token of their scope."""


class Readout(NamedTuple):
    """One read-out after a step.

    Attributes:
        request: whose.
        num_tokens: tokens that it covers: of the prompt, or of the answer.
        is_prompt: which of both.
    """

    request: str
    num_tokens: int
    is_prompt: bool


_readout: Any = partial(tuple.__new__, Readout)
"""`Readout._make` without a frame of its own: a step has many read-outs."""


class GroupLogits(NamedTuple):
    """Where the logits of a group's probes are.

    Attributes:
        indices: of the read-outs, a row each.
        columns: (name, first, behind the last): where a probe's logits are in a row.
        width: of a row.
    """

    indices: Sequence[int]
    columns: Sequence[tuple[str, int, int]]
    width: int


class Report:
    """Read-outs of a step.

    Args:
        reads: all that are due, also those of which no probe read a token.
        parts: a group of probes each.
        logits: of all parts, row by row, on any device.
        seconds: that the step spent on probes, as far as the host knows.
    """

    def __init__(
        self,
        reads: Sequence[Readout],
        parts: Sequence[GroupLogits],
        logits: Float[Tensor, " number"],
        seconds: float = 0.0,
    ) -> None:
        self.reads, self.parts, self.seconds = reads, parts, seconds
        self._wait: Callable[[], None] = lambda: None
        self._logits = logits
        if logits.device.type not in {"cpu", "meta"}:
            self._logits = torch.empty(logits.shape, pin_memory=True)
            self._logits.copy_(logits, non_blocking=True)
            event = torch.Event(logits.device.type)
            event.record()
            self._wait = event.synchronize

    @classmethod
    def of(cls, pending: PendingReadouts, readouts: Sequence[GroupReadout]) -> Report:
        """The report of what `SideCache.read` returns."""
        reads = [Readout(chunk.request, chunk.end, True) for _, chunk in pending.prompts]
        reads += [
            Readout(chunk.request, chunk.end - tracked.turns.prompt_tokens, False)
            for tracked, chunk in pending.answers
        ]
        if (decodes := pending.decodes) is not None:
            prompts = [one.turns.prompt_tokens for one in decodes.tracked]
            counts = (decodes.starts + 1 - prompts).tolist()
            reads += map(_readout, zip(decodes.requests, counts, repeat(False)))
        parts = [
            GroupLogits(one.indices, one.group.places, one.logits.shape[1]) for one in readouts
        ]
        flat = [one.logits.flatten() for one in readouts]
        if len(flat) == 1:
            return cls(reads, parts, flat[0])
        return cls(reads, parts, torch.cat(flat) if flat else torch.zeros(0))

    def rows(self) -> list[tuple[Readout, LogitsByProbe]]:
        """What was read, with the logits of each probe that had something to read."""
        self._wait()
        found = [LogitsByProbe() for _ in self.reads]
        logits, begin = self._logits.numpy(), 0
        for part in self.parts:
            end = begin + len(part.indices) * part.width
            rows = logits[begin:end].reshape(-1, part.width).tolist()
            begin = end
            for name, first, last in part.columns:
                for index, row in zip(part.indices, rows, strict=True):
                    found[index][name] = row[first:last]
        return list(zip(self.reads, found, strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        self._wait()
        # Pickling a tensor takes longer than all the rest.
        return _report, (self.reads, self.parts, self._logits.numpy(), self.seconds)


def _report(
    reads: Sequence[Readout],
    parts: Sequence[GroupLogits],
    logits: NDArray[np.float32],
    seconds: float,
) -> Report:
    return Report(reads, parts, torch.from_numpy(logits), seconds)
