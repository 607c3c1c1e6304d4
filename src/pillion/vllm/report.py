"""Logits on their way from a worker to the scheduler, without waiting for the device.

The copy off the device is started in the worker and waited for where the numbers are needed: in the
scheduler's thread, or where the report is pickled for another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.vllm.plan import Read

Numbers = dict[str, list[float]]
"""Probe name -> its logits."""


class Report:
    """Read-outs of a step.

    Args:
        reads: what each row is of.
        names: of the probes.
        outputs: logits that each has.
        logits: of all probes, on any device.
        seconds: that the step spent on probes, as far as the host knows.
    """

    def __init__(
        self,
        reads: Sequence[Read],
        names: Sequence[str],
        outputs: Sequence[int],
        logits: Float[Tensor, "read output"],
        seconds: float = 0.0,
    ) -> None:
        self.seconds = seconds
        self.reads, self.names, self.outputs = tuple(reads), tuple(names), tuple(outputs)
        self._wait: Callable[[], None] = lambda: None
        self._logits = logits
        if logits.device.type != "cpu":
            self._logits = torch.empty(logits.shape, pin_memory=True)
            self._logits.copy_(logits, non_blocking=True)
            event = torch.Event(logits.device.type)
            event.record()
            self._wait = event.synchronize

    def rows(self) -> list[tuple[Read, Numbers]]:
        """What was read, with the logits of each probe."""
        self._wait()
        ends = list(accumulate(self.outputs))
        columns = [
            (name, end - size, end)
            for name, size, end in zip(self.names, self.outputs, ends, strict=True)
        ]
        return [
            (read, {name: row[begin:end] for name, begin, end in columns})
            for read, row in zip(self.reads, self._logits.tolist(), strict=True)
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        self._wait()
        return Report, (self.reads, self.names, self.outputs, self._logits, self.seconds)
