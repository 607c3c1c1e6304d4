"""What stands beside the leading numbers of a table.

Recall of named labels, how much is given at all, and which probe validation would choose. Promises
pure functions of probabilities. Does not know how they came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from pillion.metrics import Resampled, decide
from pillion_bench.choice import FEW_ROWS
from pillion_bench.problem import Part, Problem

DEFAULT_PROBE = "gate"
"""What is named where validation has too few rows to choose between probes."""


def beside(
    problem: Problem,
    part: Part,
    probs: Float[np.ndarray, "row output"],
    thresholds: Sequence[float] | None,
) -> dict[str, float | None]:
    """`recall of LABEL` for the labels that the data set names, and `share given`.

    The share is of rows that are given a label at all: a threshold that gives none has chosen
    nothing. None where no row has the label; no share for a multi-class task, which always gives.

    Args:
        problem: whose spec names labels.
        part: the rows.
        probs: of these.
        thresholds: as in `decide`.
    """
    given = decide(probs, problem.task, thresholds)
    found: dict[str, float | None] = {}
    for name in problem.spec.recalls:
        has, got = _column(problem, part.targets, given, problem.space.names.index(name))
        found[f"recall of {name}"] = float(got[has].mean()) if has.any() else None
    if problem.task != "multiclass":
        found["share given"] = float(given.any(axis=1).mean())
    return found


def _column(
    problem: Problem, targets: Shaped[np.ndarray, "row ..."], given: np.ndarray, label: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have a label, and which are given it."""
    if problem.task == "multilabel":
        return targets[:, label] > 0, given[:, label] > 0
    if problem.task == "binary":
        return targets == label, given[:, 0] == label
    return targets == label, given[:, label] > 0


def shares(problem: Problem) -> dict[str, Any]:
    """Share of positive rows of every part of a binary task, which AUPRC and F1 depend on."""
    if problem.task != "binary":
        return {}
    return {part.name: round(float(part.targets.mean()), 4) for part in problem.parts}


def best_probe(problem: Problem, drawn: Mapping[str, Resampled]) -> dict[str, Any] | None:
    """The probe that validation chooses by the leading metric, or the default where rows are few.

    Args:
        problem: whose validation rows.
        drawn: of every probe, in the suite's order: its metric on these rows and on draws of them.

    Returns:
        `method`, `by`, and `share_of_draws`: how often each is the best when the rows are drawn
        anew; equals count for the first. None where no probe was measured.
    """
    if not drawn:
        return None
    names, rows = list(drawn), len(problem.validation)
    estimates = np.nan_to_num([drawn[name].estimate for name in names], nan=-1)
    values = np.nan_to_num(np.stack([drawn[name].values for name in names]), nan=-1)
    wins = np.bincount(values.argmax(0), minlength=len(names)) / values.shape[1]
    method, by = names[int(estimates.argmax())], f"{problem.leading[0]} of {rows:,} validation rows"
    if rows < FEW_ROWS and DEFAULT_PROBE in names:
        method, by = (
            DEFAULT_PROBE,
            f"default: {rows:,} validation rows do not choose between probes",
        )
    return {
        "method": method,
        "by": by,
        "share_of_draws": {name: round(float(x), 3) for name, x in zip(names, wins, strict=True)},
    }
