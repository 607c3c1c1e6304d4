"""What becomes of labelled rows at the depths of a probe: decisions, bands, and where they leave.

Promises the rule that a running model goes by. Does not know which bands are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from pillion.evals.bands import DepthRows, choose_bands, cuts_as_bands, likely_to_differ, sides_of
from pillion.evals.calibrate import Method, apply, fit_calibration
from pillion.probe import Card
from pillion.probe.calibration import Calibration
from pillion.probe.decisions import abstains
from pillion.probe.exit import Agreement, ExitRead, beyond, decided


@dataclass(frozen=True)
class FullDepth:
    """What is said at full depth: probabilities and decisions of every row."""

    probs: Float[np.ndarray, "row output"]
    decisions: Int[np.ndarray, "row decision"]

    @classmethod
    def of(cls, card: Card, logits: Float[np.ndarray, "row output"]) -> FullDepth:
        """By the calibration and thresholds of a card."""
        probs = apply(card.task, card.calibration, logits)
        return cls(probs, decisions_of(card, probs))


@dataclass(frozen=True)
class Left:
    """Of each row the depth at which it leaves, by its place, and what is said of it there.

    The place behind the last depth stands for rows that do not leave.
    """

    depth: Int[np.ndarray, " row"]
    probs: Float[np.ndarray, "row output"]


def decisions_of(
    card: Card, probs: Float[np.ndarray, "row output"]
) -> Int[np.ndarray, "row decision"]:
    """What each row is decided to be, and whether it is left undecided, as numbers."""
    chosen = decided(card.task, torch.from_numpy(probs), card.thresholds).numpy()
    if card.abstain is None:
        return chosen
    undecided = [[int(abstains(card.task, row, card.abstain))] for row in probs.tolist()]
    return np.concatenate([chosen, np.array(undecided)], axis=1)


@dataclass(frozen=True)
class FittedDepths:
    """Depths with a calibration each, fitted on some rows; bands follow for any price.

    Attributes:
        card: of the probe.
        patience: see `Exit`.
        calibrations: of each of the card's depths.
        lines: thresholds, one an output.
        rows: what bands are chosen by.
    """

    card: Card
    patience: int | None
    calibrations: tuple[Calibration | None, ...]
    lines: Float[np.ndarray, " output"]
    rows: DepthRows

    @classmethod
    def of(
        cls,
        card: Card,
        logits: Float[np.ndarray, "row depth output"],
        targets: Shaped[np.ndarray, "row ..."],
        decisions: Int[np.ndarray, "row decision"],
        method: Method,
        patience: int | None,
    ) -> FittedDepths:
        """Fits them.

        Args:
            card: of the probe.
            logits: of its depths; what follows behind them is not looked at.
            targets: label ids, or 0/1 a label for a multi-label probe.
            decisions: at full depth.
            method: of calibration.
            patience: see `Exit`.

        Raises:
            DataError: as of `fit_calibration`.
        """
        names = card.labels[1:] if card.task == "binary" else card.labels
        each = [logits[:, place] for place in range(len(card.depths))]
        fitted = [fit_calibration(card.task, own, targets, method, names) for own in each]
        probs = [apply(card.task, *one) for one in zip(fitted, each, strict=True)]
        lines = np.array(card.thresholds or (0.5,) * logits.shape[2])
        sides = [sides_of(card.task, one, lines) for one in probs]
        differs = [(decisions_of(card, one) != decisions).any(1) for one in probs]
        likely = [likely_to_differ(*one) for one in zip(sides, differs, strict=True)]
        agreement = Agreement(patience)
        chosen = [decided(card.task, torch.from_numpy(one), card.thresholds) for one in probs]
        layers = np.array([card.num_layers_to(depth) for depth in card.depths])
        rows = DepthRows(
            sides=sides,
            differs=np.stack(likely),
            agree=np.stack([agreement.more(one).numpy() for one in chosen]),
            cost=layers / len(card.layers),
        )
        return cls(card, patience, tuple(fitted), lines, rows)

    def reads(self, price: float) -> list[ExitRead]:
        """The depths with the bands of a price; without those at which no row leaves."""
        cuts = choose_bands(self.rows, price)
        each = zip(self.card.depths, self.calibrations, cuts, strict=True)
        found = [
            ExitRead(
                depth=depth,
                calibration=calibration,
                bands=cuts_as_bands(self.card.task, cut, self.lines),
            )
            for depth, calibration, cut in each
        ]
        if self.patience is not None:  # every depth counts
            return found
        return [read for read, cut in zip(found, cuts, strict=True) if np.isfinite(cut).any()]


def simulate(
    card: Card,
    reads: Sequence[ExitRead],
    patience: int | None,
    logits: Float[np.ndarray, "row depth output"],
    whole: Float[np.ndarray, "row output"],
) -> Left:
    """Where rows leave, by place among the card's depths (their number for nowhere).

    Args:
        card: of the probe.
        reads: the depths at which they may.
        patience: see `Exit`.
        logits: of all of the card's depths.
        whole: probabilities at full depth.
    """
    depth, probs = np.full(len(logits), len(card.depths)), whole.copy()
    agreement = Agreement(patience)
    for read in reads:
        place = card.depths.index(read.depth)
        now = torch.from_numpy(apply(card.task, read.calibration, logits[:, place]))
        agreed = agreement.more(decided(card.task, now, card.thresholds))
        leave = (beyond(card.task, now, read.bands) | agreed).numpy() & (depth == len(card.depths))
        depth[leave], probs[leave] = place, now.numpy()[leave]
    return Left(depth, probs)
