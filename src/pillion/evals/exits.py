"""Where texts may leave that are only classified, chosen on labelled rows.

Promises that, with 95 % confidence, at most the share that is asked for is decided otherwise than
at full depth, on rows like these: the share is counted on rows that were left out of the choice.
Does not know the command line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import beta
from sklearn.model_selection import KFold

from pillion.errors import ConfigError, DataError
from pillion.evals.bands import DepthRows, choose_bands, cuts_as_bands, sides_of
from pillion.evals.calibrate import Method, apply, fit_calibration
from pillion.metrics import evaluate
from pillion.probe import Artefact, Card
from pillion.probe.decisions import abstains
from pillion.probe.exit import Agreement, Exit, ExitRead, beyond, decided

CONFIDENCE = 0.95
NUM_FOLDS = 5
"""Parts of the rows that take turns at being left out."""
SHRINK = 0.7
"""How much fewer rows may be decided otherwise in the choice, where too many left-out ones are."""


@dataclass(frozen=True)
class ExitWish:
    """What is wanted of the exits.

    Attributes:
        share: of decisions that may differ from those at full depth, at most.
        method: how logits of a depth become probabilities.
        patience: depths in a row that have to agree to let a text leave without a band; None for
            bands alone.
        seed: of the parts of the rows.
    """

    share: float
    method: Method = "temperature"
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(
                f"The share of decisions that may differ is {self.share:g}; give one between 0 and "
                "1, such as 0.01."
            )
        if self.patience is not None and self.patience < 2:
            raise ConfigError(f"The patience is {self.patience}; give 2 depths or more.")


def check_exit(card: Card, wish: ExitWish, num_rows: int, coverage: float | None) -> None:
    """Refuses what a probe or so many rows cannot give, before any pass over them.

    Args:
        card: of the probe.
        wish: what is wanted.
        num_rows: that it is to be chosen on.
        coverage: of the sets that are wanted beside it, if any.

    Raises:
        ConfigError: a probe without depths, or sets of labels beside exits.
        DataError: too few rows.
    """
    if not card.depths:
        raise ConfigError(
            "The probe has no read-outs at depths, so that no text can leave early; train it with "
            "depths."
        )
    if coverage is not None:
        raise ConfigError(
            "Sets of labels keep their promise at full depth alone; ask for them or for exits."
        )
    least = math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - wish.share))
    if num_rows < least:
        raise DataError(
            f"That at most {wish.share:g} of the decisions differ takes {least:,} rows to show, "
            f"got {num_rows:,}; give more rows, or allow a larger share."
        )


def choose_exit(
    artefact: Artefact,
    logits: Float[np.ndarray, "row depth output"],
    targets: Shaped[np.ndarray, "row ..."],
    wish: ExitWish,
    data: dict[str, Any],
) -> Artefact:
    """The probe with the depths at which texts leave.

    Args:
        artefact: with the calibration and thresholds that it will have.
        logits: of each of its depths and, last, of all layers.
        targets: label ids, or 0/1 a label for a multi-label probe.
        wish: what is wanted.
        data: of the rows: `sha256`, `path` and `num_rows`; kept on the card.

    Raises:
        DataError: no band lets a text leave with so few decisions that differ.
    """
    full = _Full.of(artefact, logits[:, -1])
    everything = np.arange(len(logits))
    most = _most_differing(len(logits), wish.share)
    while True:
        seen = _left_out(artefact.card, logits, targets, full, wish, most)
        if upper_bound(int(seen.differs.sum()), len(logits)) <= wish.share:
            break
        if most == 0:
            raise _unsupported(wish)
        most = int(most * SHRINK)
    reads = _fitted(artefact.card, logits, targets, full, wish, most, everything)
    if not reads:
        raise _unsupported(wish)
    found = _found(artefact.card, seen, full, targets, wish, data)
    exit = Exit(reads=tuple(reads), patience=wish.patience, found=found)
    return artefact.revised(exit=exit)


def _unsupported(wish: ExitWish) -> DataError:
    return DataError(
        "No band lets a text leave early and, on rows that were left out of the choice, keeps the "
        f"share of decisions that differ at most at {wish.share:g}; allow a larger share, give "
        "more rows, or train with deeper depths."
    )


def upper_bound(differing: int, num_rows: int) -> float:
    """The largest share that so many of so many rows leave likely (Clopper and Pearson 1934)."""
    if differing >= num_rows:
        return 1.0
    return float(beta.ppf(CONFIDENCE, differing + 1, num_rows - differing))


def _most_differing(num_rows: int, share: float) -> int:
    """The most rows whose share is, with confidence, at most so much."""
    most = 0
    while upper_bound(most + 1, num_rows) <= share:
        most += 1
    return most


@dataclass(frozen=True)
class _Full:
    """What is said at full depth: probabilities and decisions of every row."""

    probs: Float[np.ndarray, "row output"]
    decisions: Int[np.ndarray, "row decision"]

    @classmethod
    def of(cls, artefact: Artefact, logits: Float[np.ndarray, "row output"]) -> _Full:
        probs = apply(artefact.card.task, artefact.card.calibration, logits)
        return cls(probs, decisions_of(artefact.card, probs))


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
class _Left:
    """Of each row the depth at which it leaves, by its place, and what is said of it there."""

    depth: Int[np.ndarray, " row"]
    probs: Float[np.ndarray, "row output"]
    differs: Bool[np.ndarray, " row"]


def _fitted(
    card: Card,
    logits: np.ndarray,
    targets: np.ndarray,
    full: _Full,
    wish: ExitWish,
    most: int,
    rows: Int[np.ndarray, " some"],
) -> list[ExitRead]:
    """Calibrations and bands of the depths, on some rows; without depths at which nobody leaves."""
    names = card.labels[1:] if card.task == "binary" else card.labels
    depths, probs = range(len(card.depths)), list[np.ndarray]()
    calibrations: list[Any] = []
    for place in depths:
        own = logits[rows, place]
        calibrations.append(fit_calibration(card.task, own, targets[rows], wish.method, names))
        probs.append(apply(card.task, calibrations[-1], own))
    lines = np.array(card.thresholds or (0.5,) * logits.shape[2])
    known = DepthRows(
        sides=[sides_of(card.task, one, lines) for one in probs],
        differs=np.stack([(decisions_of(card, p) != full.decisions[rows]).any(1) for p in probs]),
        agree=np.stack(_agreed(card, probs, wish.patience)),
        cost=np.array([card.num_layers_to(depth) for depth in card.depths]) / len(card.layers),
    )
    cuts = choose_bands(known, most * len(rows) // len(logits))
    reads = [
        ExitRead(depth=depth, calibration=one, bands=cuts_as_bands(card.task, cut, lines))
        for depth, one, cut in zip(card.depths, calibrations, cuts, strict=True)
    ]
    if wish.patience is not None:
        return reads
    return [read for read, cut in zip(reads, cuts, strict=True) if np.isfinite(cut).any()]


def _agreed(card: Card, probs: Sequence[np.ndarray], patience: int | None) -> list[np.ndarray]:
    agreement = Agreement(patience)
    each = (decided(card.task, torch.from_numpy(one), card.thresholds) for one in probs)
    return [agreement.more(one).numpy() for one in each]


def _left_out(
    card: Card,
    logits: np.ndarray,
    targets: np.ndarray,
    full: _Full,
    wish: ExitWish,
    most: int,
) -> _Left:
    """What becomes of every row by bands that were chosen on others."""
    depth = np.full(len(logits), len(card.depths))
    probs, differs = full.probs.copy(), np.zeros(len(logits), dtype=bool)
    parts = KFold(NUM_FOLDS, shuffle=True, random_state=wish.seed)
    for rest, held in parts.split(logits):
        try:
            reads = _fitted(card, logits, targets, full, wish, most, rest)
        except DataError as error:
            raise DataError(
                f"There are too few rows to try exits on others ({error}); give more."
            ) from error
        left = simulate(card, reads, wish.patience, logits[held], full.probs[held])
        depth[held], probs[held] = left.depth, left.probs
        differs[held] = (decisions_of(card, left.probs) != full.decisions[held]).any(1)
    return _Left(depth, probs, differs)


def simulate(
    card: Card,
    reads: Sequence[ExitRead],
    patience: int | None,
    logits: Float[np.ndarray, "row depth output"],
    whole: Float[np.ndarray, "row output"],
) -> _Left:
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
    return _Left(depth, probs, np.zeros(len(logits), dtype=bool))


def _found(
    card: Card,
    seen: _Left,
    full: _Full,
    targets: np.ndarray,
    wish: ExitWish,
    data: dict[str, Any],
) -> dict[str, Any]:
    """What the card keeps, all of it of rows that were left out of the choice."""
    counts = np.bincount(seen.depth, minlength=len(card.depths) + 1)
    layers = np.array([*(card.num_layers_to(one) for one in card.depths), len(card.layers)])
    differing = int(seen.differs.sum())
    measured = {
        name: evaluate(probs, targets, card.task, card.thresholds, ("accuracy", "f1"))
        for name, probs in (("at_full_depth", full.probs), ("with_exits", seen.probs))
    }
    return {
        "share": wish.share,
        "method": wish.method,
        "seed": wish.seed,
        "data": data,
        "differing": differing / len(targets),
        "differing_at_most": upper_bound(differing, len(targets)),
        "confidence": CONFIDENCE,
        "left_at": {
            str(depth): int(count)
            for depth, count in zip([*card.depths, card.layers[-1]], counts, strict=True)
        },
        "share_of_layers": float((counts * layers).sum() / (len(targets) * len(card.layers))),
        **measured,
    }
