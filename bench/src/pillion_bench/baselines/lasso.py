"""Logistic regression with an L1 penalty on more features than rows, to its optimum or an error.

Promises the optimum over all features, though only those that could matter are ever solved for: a
working set grows until no feature outside it breaks the optimality conditions (the KKT conditions;
Tibshirani et al. 2012, "Strong rules"). scikit-learn's liblinear solves for the working set.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from pillion.errors import ConvergenceError

ROWS_AT_ONCE = 1024
FIRST, ROUNDS = 128, 60
"""Features that a working set begins with, and how often it may grow: by half of it each time."""
SLACK = 0.02
"""Converged: no gradient outside the working set is beyond the penalty by more than this share."""
SCALE = 100
"""liblinear penalises the intercept as a weight on a constant of this size: hardly."""


@dataclass(frozen=True)
class Unit:
    """One linear unit.

    Attributes:
        places: features whose weight is not zero.
        weights: theirs.
        bias: carries (nearly) no penalty.
    """

    places: Int[np.ndarray, " some"]
    weights: Float[np.ndarray, " some"]
    bias: float

    def dense(self, num_features: int) -> Float[Tensor, " feature"]:
        """The weights of all features."""
        found = torch.zeros(num_features)
        found[torch.from_numpy(self.places)] = torch.from_numpy(self.weights).float()
        return found


def constant(bias: float) -> Unit:
    """A unit that says the same of every row."""
    return Unit(np.empty(0, dtype=np.int64), np.empty(0), bias)


def fit_unit(
    features: Float[Tensor, "row feature"],
    wanted: Float[np.ndarray, " row"],
    row_weights: Float[np.ndarray, " row"],
    penalty: float,
    start: Unit | None = None,
) -> Unit:
    """Minimises the mean of weighted cross-entropy plus `penalty * |weights|_1`.

    Args:
        features: z-scored; may be half precision.
        wanted: 0 or 1 of every row, both of them present.
        row_weights: of every row in the mean.
        penalty: weight of the penalty.
        start: another penalty's optimum, whose features are tried first.

    Raises:
        ConvergenceError: not at the optimum after `ROUNDS` rounds, or liblinear was not.
    """
    share = float((row_weights * wanted).sum() / row_weights.sum())
    unit = constant(float(np.log(share / (1 - share))))
    tried = unit.places if start is None else start.places
    for _ in range(ROUNDS):
        if len(tried):
            unit = _solved(features, tried, wanted, row_weights, penalty)
        steep = _gradient(features, unit, wanted, row_weights)
        steep[unit.places] = 0
        beyond = np.flatnonzero(steep > penalty * (1 + SLACK))
        if not len(beyond):
            return unit
        room = max(FIRST, len(unit.places) // 2)
        new = beyond[np.argsort(steep[beyond])[::-1][:room]]
        tried = np.union1d(unit.places, new)
    raise ConvergenceError(
        f"A sparse logistic regression is not at its optimum after {ROUNDS} rounds (penalty "
        f"{penalty:g}); try a stronger penalty."
    )


def _solved(
    features: Tensor,
    places: Int[np.ndarray, " some"],
    wanted: Float[np.ndarray, " row"],
    row_weights: Float[np.ndarray, " row"],
    penalty: float,
) -> Unit:
    """The optimum over some features, without those whose weight is zero there."""
    some = features[:, torch.from_numpy(places)].double().numpy()
    model = LogisticRegression(
        l1_ratio=1,
        C=1 / (len(wanted) * penalty),
        solver="liblinear",
        intercept_scaling=SCALE,
        tol=1e-5,
        max_iter=2000,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(some, wanted.astype(int), sample_weight=row_weights)
        except ConvergenceWarning as error:
            raise ConvergenceError(
                f"A sparse logistic regression of {len(places)} features is not at its optimum "
                f"(penalty {penalty:g}); try a stronger penalty."
            ) from error
    weights, bias = np.ravel(model.coef_), np.ravel(model.intercept_)
    kept = np.flatnonzero(weights)
    return Unit(places[kept], weights[kept], float(bias[0]))


def _gradient(
    features: Tensor,
    unit: Unit,
    wanted: Float[np.ndarray, " row"],
    row_weights: Float[np.ndarray, " row"],
) -> Float[np.ndarray, " feature"]:
    """Size of the loss's gradient by each weight."""
    total = torch.zeros(features.shape[1])
    places, weights = torch.from_numpy(unit.places), torch.from_numpy(unit.weights).float()
    pull = torch.from_numpy(wanted), torch.from_numpy(row_weights)
    pieces = zip(*(part.split(ROWS_AT_ONCE) for part in (features, *pull)), strict=True)
    for some, truth, each in pieces:
        logits = some[:, places].float() @ weights + unit.bias
        off = each.float() * (logits.sigmoid() - truth.float())
        total += some.float().T @ off
    return (total / len(features)).abs().numpy()
