"""Where texts may leave that are only classified, chosen on labelled rows.

Promises that, with 95 % confidence, at most the share that is asked for is decided otherwise than
at full depth, on rows like these: the share is counted on rows that were left out of the choice.
Does not know the command line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import beta
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from pillion.core import defaults
from pillion.errors import ConfigError, DataError
from pillion.evals.bands import PRICES
from pillion.evals.calibrate import Method
from pillion.evals.exit_rows import FittedDepths, FullDepth, Left, decisions_of, simulate
from pillion.evals.operating import LEAST_SHARE, check_seed
from pillion.metrics import evaluate
from pillion.probe import Artefact, Card
from pillion.probe.exit import Exit

CONFIDENCE = 0.95
NUM_FOLDS = 5
"""Parts of the rows that take turns at being left out."""


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
    method: Method = defaults.CALIBRATION
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not LEAST_SHARE <= self.share < 1:
            raise ConfigError(
                f"The share of decisions that may differ is {self.share:g}; give one between 0 and "
                "1, such as 0.01."
            )
        if self.patience is not None and self.patience < 2:
            raise ConfigError(f"The patience is {self.patience}; give 2 depths or more.")
        check_seed(self.seed)


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


# Tens of fits of two numbers: threads would only wait for each other.
@threadpool_limits.wrap(limits=1)
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
    card, chosen = artefact.card, None
    full = FullDepth.of(card, logits[:, -1])
    parts = _left_out(card, logits, targets, full, wish)
    # From the most careful bands on, up to the first that are not careful enough.
    for price in PRICES.tolist():
        seen = _seen(parts, logits, full, price)
        if upper_bound(_differing(card, seen, full), len(logits)) > wish.share:
            break
        chosen = price, seen
    if chosen is None:
        raise _unsupported(wish)
    price, seen = chosen
    reads = _fitted(card, logits, targets, full, wish, np.arange(len(logits))).reads(price)
    if not reads:
        raise _unsupported(wish)
    found = _found(card, seen, full, targets, wish, data)
    exit = Exit(reads=tuple(reads), patience=wish.patience, found=found)
    return artefact.revised(exit=exit)


def _differing(card: Card, left: Left, full: FullDepth) -> int:
    return int((decisions_of(card, left.probs) != full.decisions).any(1).sum())


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


def _left_out(
    card: Card,
    logits: np.ndarray,
    targets: np.ndarray,
    full: FullDepth,
    wish: ExitWish,
) -> list[tuple[np.ndarray, FittedDepths]]:
    """Parts of the rows, and what is fitted on the others for each."""
    parts = KFold(min(NUM_FOLDS, len(logits)), shuffle=True, random_state=wish.seed)
    try:
        return [
            (held, _fitted(card, logits, targets, full, wish, rest))
            for rest, held in parts.split(logits)
        ]
    except DataError as error:
        raise DataError(
            f"There are too few rows to try exits on others ({error}); give more."
        ) from error


def _fitted(
    card: Card,
    logits: np.ndarray,
    targets: np.ndarray,
    full: FullDepth,
    wish: ExitWish,
    rows: np.ndarray,
) -> FittedDepths:
    decisions = full.decisions[rows]
    return FittedDepths.of(card, logits[rows], targets[rows], decisions, wish.method, wish.patience)


def _seen(
    parts: list[tuple[np.ndarray, FittedDepths]],
    logits: np.ndarray,
    full: FullDepth,
    price: float,
) -> Left:
    """What becomes of every row by bands of a price that were chosen on others."""
    depth, probs = np.empty(len(logits), dtype=np.int64), full.probs.copy()
    for held, fitted in parts:
        reads = fitted.reads(price)
        left = simulate(fitted.card, reads, fitted.patience, logits[held], full.probs[held])
        depth[held], probs[held] = left.depth, left.probs
    return Left(depth, probs)


def _found(
    card: Card,
    seen: Left,
    full: FullDepth,
    targets: np.ndarray,
    wish: ExitWish,
    data: dict[str, Any],
) -> dict[str, Any]:
    """What the card keeps, all of it of rows that were left out of the choice."""
    counts = np.bincount(seen.depth, minlength=len(card.depths) + 1)
    layers = np.array([*(card.num_layers_to(one) for one in card.depths), len(card.layers)])
    differing = _differing(card, seen, full)
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
