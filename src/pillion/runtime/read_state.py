"""How far a batch of sequences has been read, as frozen values.

Knows neither probes nor engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from pillion.core import Scope
from pillion.probe.network import State, pick
from pillion.runtime.scope_masks import ScopeMasks

States = tuple[State | None, ...]
Counts = Mapping[Scope, Int[Tensor, " row"]]
"""Of each group, a fold state; None for one that has read nothing."""


@dataclass(frozen=True)
class ReadState:
    """How far a sequence batch has been read.

    Attributes:
        num_tokens: positions seen, padding included (the length of the KV cache).
        num_rows: sequences in the batch.
        states: a fold state a group, since the last cut; None where a group has read nothing.
        counts: scope -> tokens of each row that it has read since the last cut.
        prompt: states and counts after the first pass; None where that was not the whole prompt.
        scope_masks: of the rows; None where only probes of every token read.
    """

    num_tokens: int
    num_rows: int
    states: States
    counts: Counts
    prompt: tuple[States, Counts] | None
    scope_masks: ScopeMasks | None = None

    def picked(self, rows: Int[Tensor, " row"]) -> ReadState:
        """Some of the rows, repeated or reordered."""
        return ReadState(
            self.num_tokens,
            len(rows),
            *_read(self.states, self.counts, rows),
            self.prompt and _read(*self.prompt, rows),
            self.scope_masks and self.scope_masks.pick(rows),
        )


def _read(states: States, counts: Counts, rows: Int[Tensor, " row"]) -> tuple[States, Counts]:
    return _picked(states, rows), {scope: count[rows] for scope, count in counts.items()}


def _picked(states: States, rows: Int[Tensor, " row"]) -> States:
    return tuple(state and pick(state, rows) for state in states)
