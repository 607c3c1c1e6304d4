"""Logits on their way from a worker to the scheduler, without waiting for the device.

The copy off the device is started in the worker and waited for where the numbers are needed: in the
scheduler's thread, or where the report is pickled for another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.backends.paged import Chunk
from pillion.sidecache import Heard, Lane

Numbers = dict[str, list[float]]
"""Probe name -> its logits; without probes that have read no token of their scope."""


@dataclass(frozen=True)
class Read:
    """One read-out after a step.

    Attributes:
        request: whose.
        num_tokens: tokens that it covers: of the prompt, or of the answer.
        is_prompt: which of both.
    """

    request: str
    num_tokens: int
    is_prompt: bool

    @classmethod
    def of(cls, lane: Lane, chunk: Chunk, is_prompt: bool) -> Read:
        """What is due of a request after a chunk."""
        before = 0 if is_prompt else lane.script.prompt_tokens
        return cls(chunk.request, chunk.end - before, is_prompt)


@dataclass(frozen=True)
class Part:
    """What the probes of a group have said.

    Attributes:
        reads: of whom, a row each.
        columns: name -> where a probe's logits are in a row.
        width: of a row.
    """

    reads: tuple[Read, ...]
    columns: dict[str, tuple[int, int]]
    width: int


class Report:
    """Read-outs of a step.

    Args:
        reads: all that are due, also those of which no probe has anything to say.
        parts: a group of probes each.
        logits: of all parts, row by row, on any device.
        seconds: that the step spent on probes, as far as the host knows.
    """

    def __init__(
        self,
        reads: Sequence[Read],
        parts: Sequence[Part],
        logits: Float[Tensor, " number"],
        seconds: float = 0.0,
    ) -> None:
        self.reads, self.parts, self.seconds = tuple(reads), tuple(parts), seconds
        self._wait: Callable[[], None] = lambda: None
        self._logits = logits
        if logits.device.type not in {"cpu", "meta"}:
            self._logits = torch.empty(logits.shape, pin_memory=True)
            self._logits.copy_(logits, non_blocking=True)
            event = torch.Event(logits.device.type)
            event.record()
            self._wait = event.synchronize

    @classmethod
    def of(cls, reads: Sequence[Read], heard: Sequence[Heard]) -> Report:
        """What the groups of a side cache have heard."""
        parts = [
            Part(
                tuple(Read.of(*said) for said in one.said),
                {
                    a.name: (columns.start, columns.stop)
                    for a, columns in zip(one.group.artefacts, one.group.columns, strict=True)
                },
                one.logits.shape[1],
            )
            for one in heard
        ]
        flat = [one.logits.flatten() for one in heard]
        return cls(reads, parts, torch.cat(flat) if flat else torch.zeros(0))

    def rows(self) -> list[tuple[Read, Numbers]]:
        """What was read, with the logits of each probe that had something to read."""
        self._wait()
        found = {read: Numbers() for read in self.reads}
        numbers, begin = self._logits.tolist(), 0
        for part in self.parts:
            for read in part.reads:
                row = numbers[begin : begin + part.width]
                begin += part.width
                found[read] |= {n: row[i:j] for n, (i, j) in part.columns.items()}
        return list(found.items())

    def __reduce__(self) -> tuple[Any, ...]:
        self._wait()
        return Report, (self.reads, self.parts, self._logits, self.seconds)
