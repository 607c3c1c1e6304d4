"""Which tokens of a pass each scope reads, as masks; the same in chunks as in one piece.

Tokens of a row beyond the ones that it began with are the answer. Knows neither probes nor states.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pillion.core import (
    ANSWER_SCOPES,
    PROMPT_SCOPES,
    SCOPES,
    Scope,
    Tokens,
    as_tokens,
    in_reasoning,
)

Masks = Mapping[Scope, Bool[Tensor, "batch chunk"]]
"""Which tokens each scope reads."""


@dataclass(frozen=True)
class ScopeMasks:
    """The rows of a batch, and how far they have run.

    Attributes:
        tables: scope -> which tokens of each row it reads, in the order of the row.
        lengths: tokens that each row began with.
        done: tokens of each row that have run.
        inside: whether each row's answer is in its reasoning now.
        reasoning: tokens that begin and end reasoning; None if there are none.
        longest: of `lengths`.
        answering: whether an answer follows, which is what probes of answers read.
        begun: whether all that comes is of answers, as every row has run.
    """

    tables: Mapping[Scope, Bool[Tensor, "batch token"]]
    lengths: Int[Tensor, " batch"]
    done: Int[Tensor, " batch"]
    inside: Bool[Tensor, " batch"]
    reasoning: tuple[int, int] | None
    longest: int
    answering: bool = False
    begun: bool = False

    @classmethod
    def of(
        cls,
        rows: Sequence[Tokens],
        scopes: Sequence[Scope],
        device: torch.device,
        reasoning: tuple[int, int] | None = None,
        answering: bool = False,
    ) -> ScopeMasks:
        """Rows that have not begun to run.

        Args:
            rows: of the batch, one or more.
            scopes: what masks are wanted of.
            device: where they are wanted.
            reasoning: tokens that begin and end reasoning.
            answering: whether an answer follows.
        """
        longest = max(map(len, rows))
        tables: dict[Scope, Tensor] = {}
        for scope in scopes:
            table = torch.zeros(len(rows), longest, dtype=torch.bool)
            # Where an answer follows, `response` is that one and none before it.
            asked = () if answering and scope == "response" else rows
            for place, row in enumerate(asked):
                for part in row.ranges(scope):
                    table[place, part.start : part.stop] = True
            tables[scope] = table.to(device)
        return cls(
            tables,
            torch.tensor([len(row) for row in rows], device=device),
            torch.zeros(len(rows), dtype=torch.long, device=device),
            torch.tensor([in_reasoning(row, reasoning) for row in rows], device=device),
            reasoning,
            longest,
            answering,
        )

    def masks(
        self, mask: Bool[Tensor, "batch chunk"], ids: Int[Tensor, "batch chunk"] | None
    ) -> tuple[dict[Scope, Bool[Tensor, "batch chunk"]], ScopeMasks]:
        """Which of the next tokens each scope reads, and the rows behind them.

        Args:
            mask: which positions hold a token.
            ids: the tokens; None where no reasoning has to be told from an answer.
        """
        place = self.done[:, None] + mask.long().cumsum(1) - 1
        is_answer = place >= self.lengths[:, None]
        spoken, reasoning = is_answer & mask, self.inside
        if self.reasoning is not None and ids is not None:
            hidden, reasoning = self._reasoning(ids, spoken)
            spoken = spoken & ~hidden
        found: dict[Scope, Bool[Tensor, "batch chunk"]] = {}
        for scope, table in self.tables.items():
            asked = table.gather(1, place.clamp(0, self.longest - 1)) & ~is_answer & mask
            found[scope] = asked | spoken if scope in ANSWER_SCOPES else asked
        done = self.done + mask.sum(1)
        # How many positions have run does not tell: padding may be of any length.
        begun = self.begun or bool((done >= self.lengths).all())
        return found, replace(self, done=done, inside=reasoning, begun=begun)

    def heard(self, after: ScopeMasks) -> Collection[Scope]:
        """Scopes that tokens may be of which run between here and `after`."""
        if self.begun:
            return ANSWER_SCOPES
        if self.answering and bool((after.done <= after.lengths).all()):
            return PROMPT_SCOPES
        return SCOPES

    def _reasoning(
        self, ids: Int[Tensor, "batch chunk"], spoken: Bool[Tensor, "batch chunk"]
    ) -> tuple[Bool[Tensor, "batch chunk"], Bool[Tensor, " batch"]]:
        """Tokens of reasoning, its borders with it; and whether the rows end inside."""
        assert self.reasoning is not None
        first, last = ((ids == mark) & spoken for mark in self.reasoning)
        border = first | last
        # At each token, the place of the last border so far; before the first one, what was before.
        steps = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        latest = (border * steps).cummax(1).values
        opened = first.gather(1, (latest - 1).clamp(min=0))
        inside = torch.where(latest > 0, opened, self.inside[:, None])
        return inside | border, inside[:, -1]

    def pick(self, rows: Int[Tensor, " row"]) -> ScopeMasks:
        """Some of the rows, repeated or reordered."""
        return replace(
            self,
            tables={scope: table[rows] for scope, table in self.tables.items()},
            lengths=self.lengths[rows],
            done=self.done[rows],
            inside=self.inside[rows],
        )


def read_mask(
    mask: Bool[Tensor, "batch token"], rows: Sequence[Sequence[int]], scope: Scope
) -> Bool[Tensor, "batch token"]:
    """Which positions of a padded batch hold a token of the scope.

    Args:
        mask: which of them hold a token.
        rows: of the batch, whole.
        scope: what is read.
    """
    if scope == "all":
        return mask
    spoken = ScopeMasks.of([as_tokens(row) for row in rows], (scope,), mask.device)
    return spoken.masks(mask, None)[0][scope]
