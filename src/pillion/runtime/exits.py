"""Verdicts of texts that are only classified: each is read as deep as it has to be.

A watcher that lets a row of the batch leave the pass at the first depth where every probe's card
says that it may. What was folded up to there is the read-out, so nothing is computed twice. Knows
no engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Backend, Step
from pillion.core import SCOPES, Scope, Tokens, Verdict, as_tokens
from pillion.errors import StateError
from pillion.probe import Artefact
from pillion.probe.exit import Agreement, beyond, decided
from pillion.probe.group import Group, group
from pillion.probe.network import State, inverse_rms, join, pick
from pillion.runtime.padding import pad_batch
from pillion.runtime.scope_masks import ScopeMasks


def may_leave(artefacts: Sequence[Artefact]) -> bool:
    """Whether texts may leave early: every probe says so on its card."""
    return bool(artefacts) and all(artefact.card.exit is not None for artefact in artefacts)


def score_leaving(
    backend: Backend, artefacts: Sequence[Artefact], rows: Sequence[Sequence[int]]
) -> list[dict[str, Verdict]]:
    """Verdicts of one batch of whole rows; see `ExitReading`."""
    groups = group(artefacts, backend.device, backend.dtype)
    reading = ExitReading(groups, [as_tokens(row) for row in rows], backend.reasoning_ids)
    backend.run_early_exit(reading, reading.layers, *pad_batch(rows))
    return reading.verdicts()


class _Open:
    """The rows of which a probe has no verdict yet.

    Attributes:
        artefact: the probe.
        rows: which of those that are left.
        agreement: of its depths so far.
    """

    def __init__(self, artefact: Artefact, rows: Bool[Tensor, " row"]) -> None:
        self.artefact, self.rows = artefact, rows
        assert artefact.card.exit is not None
        self.exit = artefact.card.exit
        self.agreement = Agreement(self.exit.patience)

    def at(self, depth: int, logits: Float[Tensor, "batch output"]) -> tuple[Tensor, Tensor]:
        """Probabilities at a depth, and which rows have their verdict by them."""
        place, card = self.exit.depths.index(depth), self.artefact.card
        probs = self.artefact.probabilities_at(place, logits)
        agreed = self.agreement.more(decided(card.task, probs, card.thresholds))
        leave = beyond(card.task, probs, self.exit.reads[place].bands) | agreed
        return probs, leave & self.rows

    def pick(self, rows: Int[Tensor, " row"]) -> None:
        """Some rows alone go on."""
        self.rows = self.rows[rows]
        self.agreement.pick(rows)


class ExitReading:
    """Reads one pass over whole rows. A `EarlyExitWatcher`.

    Args:
        groups: of probes with exits on their cards; they serve one reading after the other.
        rows: of the batch.
        reasoning: tokens around the reasoning in an answer, which scopes leave out.

    Attributes:
        layers: that it wants to be shown.
        stops: depths at which rows may leave.
        left_at: the layer behind which each row left; None for those that were read whole.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        rows: Sequence[Tokens],
        reasoning: tuple[int, int] | None = None,
    ) -> None:
        self.groups, self._rows, self._reasoning = groups, rows, reasoning
        self.artefacts = [artefact for one in groups for artefact in one.artefacts]
        self.layers = tuple(sorted({layer for one in groups for layer in one.layers}))
        exits = [artefact.card.exit for artefact in self.artefacts]
        self.stops = tuple(sorted({d for one in exits if one is not None for d in one.depths}))
        self.left_at: list[int | None] = [None] * len(rows)
        self._probs: list[dict[str, list[float]]] = [{} for _ in rows]

    def start(self, step: Step) -> None:
        """A pass begins: makes the masks of the scopes that are read; every row is open."""
        device, mask = step.mask.device, step.mask
        some = {one.scope for one in self.groups if one.scope != "all"}
        wanted: list[Scope] = [scope for scope in SCOPES if scope in some]
        spoken = ScopeMasks.of(self._rows, wanted, device, self._reasoning)
        self._masks = {"all": mask, **spoken.masks(mask, step.ids)[0]}
        self._kept = torch.arange(len(mask), device=device)
        self._open = {
            artefact.name: _Open(artefact, self._masks[one.scope].any(1))
            for one in self.groups
            for artefact in one.artefacts
        }
        self._new: list[list[tuple[int, Tensor]]] = [[] for _ in self.groups]
        self._states: list[State | None] = [None] * len(self.groups)

    def see(self, layer: int, hidden: Float[Tensor, "batch token dim"]) -> None:
        """Taps a layer's states for each group that reads it."""
        hidden = hidden.detach()
        scale: Tensor | None = None
        for one, new in zip(self.groups, self._new, strict=True):
            if layer not in one.layers:
                continue
            states = hidden.to(one.dtype)
            if one.normalise and scale is None:
                scale = inverse_rms(states)
            values = one.layer_values(one.layers.index(layer), states, scale=scale)
            new.append((layer, values))

    def staying(self, layer: int) -> Int[Tensor, " row"]:
        """Which rows have no verdict of some probe at this depth."""
        self._fold()
        for one, state in zip(self.groups, self._states, strict=True):
            at = [a for a in one.artefacts if a.card.exit and layer in a.card.exit.depths]
            if not at or state is None:
                continue
            for artefact, logits in zip(one.artefacts, one.logits(state), strict=True):
                if artefact in at:
                    own = self._open[artefact.name]
                    self._settle(own, *own.at(layer, logits))
        going = torch.stack([own.rows for own in self._open.values()]).any(0)
        if bool(going.all()):
            return torch.arange(len(going), device=going.device)
        for place in self._kept[~going].tolist():
            self.left_at[place] = layer
        self._pick(going.nonzero()[:, 0])
        return going.nonzero()[:, 0]

    def end(self, cache: object | None) -> None:
        """The pass is over: rows that are left were read whole."""
        self._fold()
        if not len(self._kept):
            return
        for one, state in zip(self.groups, self._states, strict=True):
            assert state is not None
            for artefact, logits in zip(one.artefacts, one.logits(state), strict=True):
                own = self._open[artefact.name]
                self._settle(own, artefact.probabilities(logits), own.rows)

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """Nothing to move: there is no cache."""

    def verdicts(self) -> list[dict[str, Verdict]]:
        """One mapping a row: probe name -> verdict; without a probe that has none of its words."""
        named = {artefact.name: artefact for artefact in self.artefacts}
        return [
            {name: artefact.verdict(row[name]) for name, artefact in named.items() if name in row}
            for row in self._probs
        ]

    def _settle(
        self, own: _Open, probs: Float[Tensor, "batch output"], rows: Bool[Tensor, " row"]
    ) -> None:
        """Takes down the verdicts of some rows."""
        places = self._kept[rows].tolist()
        for place, found in zip(places, probs[rows].tolist(), strict=True):
            self._probs[place][own.artefact.name] = found
        own.rows = own.rows & ~rows

    def _pick(self, rows: Int[Tensor, " row"]) -> None:
        self._kept = self._kept[rows]
        self._masks = {scope: mask[rows] for scope, mask in self._masks.items()}
        self._states = [None if one is None else pick(one, rows) for one in self._states]
        for own in self._open.values():
            own.pick(rows)

    def _fold(self) -> None:
        """Folds what was tapped since the last depth."""
        for place, one in enumerate(self.groups):
            new, self._new[place] = self._new[place], []
            if not new:
                continue
            mask = self._masks[one.scope]
            self._check(new, self._masks["all"])
            before = self._states[place]
            parts = [one.fold.summarise(values, mask) for _, values in new]
            self._states[place] = join(parts if before is None else [before, *parts])

    def _check(self, new: Sequence[tuple[int, Tensor]], mask: Bool[Tensor, "batch token"]) -> None:
        """Raises if a state was not finite: the sum of its token's values is not, either."""
        sums = torch.cat([values for _, values in new]).sum(-1)
        if bool(sums.sum().isfinite()):
            return
        for index, row, token in (~sums.isfinite() & mask).nonzero().tolist()[:1]:
            raise StateError(
                f"Hidden states of layer {new[index][0]} are not finite at token {token} of row "
                f"{int(self._kept[row])}: the model gave NaN or infinity. Run the model in another "
                "dtype, such as float32."
            )
