"""How a setting is chosen on validation rows: by the metric that leads the table, then log-loss.

Promises that every setting that was tried is on record, and whether the best one still stood at an
edge of what was tried. Does not know methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from sklearn.model_selection import KFold

from pillion.data.labels import Task
from pillion.metrics import evaluate
from pillion.train import choose_thresholds

FEW_ROWS = 500
"""With fewer validation rows a setting is chosen by folds of these and the training rows."""
FOLDS = 5
STEP, MOST_STEPS = 10.0, 6
"""How a grid grows beyond an edge that was chosen, and how often at most."""
WORTH = 1e-3
"""Nats by which log-loss has to fall for a step beyond an edge where the score stays the same."""


@dataclass(frozen=True)
class Quality:
    """How good a setting is on rows that it did not learn from.

    Attributes:
        score: by the metric that leads the table, thresholds chosen on the same rows; the mean over
            folds where there are several.
        log_loss: in nats a row (multi-class) or decision.
        spread: standard deviation of the score over folds; None where there is one set of rows.
    """

    score: float
    log_loss: float
    spread: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """The higher the better; equal scores are told apart by log-loss."""
        return self.score, -self.log_loss

    @property
    def facts(self) -> dict[str, Any]:
        """What a result file holds of it; no score where the rows left the metric undefined."""
        score = round(self.score, 4) if math.isfinite(self.score) else None
        spread = {} if self.spread is None else {"spread": round(self.spread, 4)}
        return {"score": score, **spread, "log_loss": round(self.log_loss, 4)}


def quality(
    metric: str,
    task: Task,
    probs: Float[np.ndarray, "row output"],
    targets: Shaped[np.ndarray, "row ..."],
) -> Quality:
    """How good probabilities are; where the rows leave the metric undefined log-loss alone counts.

    Args:
        metric: a name of `pillion.metrics`.
        task: what targets mean.
        probs: of every row.
        targets: label ids, or 0/1 a label.
    """
    safe = np.clip(probs.astype(np.float32), 0, 1)
    lines = choose_thresholds(task, torch.from_numpy(safe), targets)
    found = evaluate(safe, targets, task, lines, (metric,))[metric]
    return Quality(-math.inf if found is None else found, log_loss(probs, targets, task))


def together(parts: Sequence[Quality]) -> Quality:
    """Of several folds, all of which count the same."""
    scores = [part.score for part in parts]
    is_several = len(parts) > 1 and all(map(math.isfinite, scores))
    spread = float(np.std(scores, ddof=1)) if is_several else None
    losses = [part.log_loss for part in parts]
    return Quality(float(np.mean(scores)), float(np.mean(losses)), spread)


def folds(
    num_rows: int, seed: int = 0
) -> Iterator[tuple[Int[np.ndarray, " learn"], Int[np.ndarray, " held"]]]:
    """Row ids to learn from and to hold back, `FOLDS` times; every row is held back once."""
    for learn, held in KFold(FOLDS, shuffle=True, random_state=seed).split(np.arange(num_rows)):
        yield np.asarray(learn), np.asarray(held)


def judges(
    num_train: int, num_held: int
) -> list[tuple[Int[np.ndarray, " learn"], Int[np.ndarray, " held"]]]:
    """Row ids to learn from and to be judged on, of training and validation rows in this order.

    With fewer than `FEW_ROWS` validation rows `FOLDS` folds of all rows, else once as they are.
    """
    num_rows = num_train + num_held
    if FOLDS <= num_held < FEW_ROWS:
        return list(folds(num_rows))
    return [(np.arange(num_train), np.arange(num_train, num_rows))]


def widened(grid: Sequence[float], measure: Callable[[float], Quality]) -> Mapping[float, Quality]:
    """Every value that was tried: the grid, and beyond an edge of it for as long as that is best.

    A grid of a single value is no choice and is not widened.

    Args:
        grid: positive values to begin with.
        measure: how good one is; called from the smallest to the largest, then beyond an edge.
    """
    tried = {value: measure(value) for value in sorted(grid)}
    for _ in range(MOST_STEPS if len(tried) > 1 else 0):
        best = best_of(tried)
        if best not in (min(tried), max(tried)):
            break
        beyond = best * STEP if best == max(tried) else best / STEP
        tried[beyond] = measure(beyond)
        if not _is_worth(tried[best], tried[beyond]):
            break
    return tried


def _is_worth(before: Quality, after: Quality) -> bool:
    return after.score > before.score or (
        after.score == before.score and after.log_loss < before.log_loss - WORTH
    )


def best_of(tried: Mapping[float, Quality]) -> float:
    """The value with the highest rank; of equals the smallest."""
    return max(sorted(tried), key=lambda value: tried[value].rank)


def is_at_edge(tried: Mapping[float, Quality]) -> bool:
    """Whether the best of several values has no worse one on both of its sides."""
    return len(tried) > 1 and best_of(tried) in (min(tried), max(tried))


def log_loss(
    probs: Float[np.ndarray, "row output"], targets: Shaped[np.ndarray, "row ..."], task: str
) -> float:
    """Cross-entropy in nats a row (multi-class) or decision."""
    safe = np.clip(probs.astype(np.float64), 1e-7, 1 - 1e-7)
    if task == "multiclass":
        return float(-np.log(safe[np.arange(len(safe)), targets.astype(int)]).mean())
    wanted = targets.reshape(safe.shape)
    return float(-(wanted * np.log(safe) + (1 - wanted) * np.log1p(-safe)).mean())
