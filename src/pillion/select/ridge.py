"""Ridge classifiers in closed form, tested on each row by a model that has not seen it.

Promises exact leave-one-out scores for many penalties from one decomposition, without a fold or a
random split. Knows neither layers nor models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

PENALTIES = tuple(10.0**power for power in (-3, -2, -1, 0, 1, 2))
"""Shares of the rows' mean square; the smallest leave-one-out squared error takes one of them."""


@dataclass(frozen=True)
class LeftOut:
    """What ridge regression says of each row when that row is left out.

    Attributes:
        scores: one a row and target; above 0 is more like the target's 1 than its -1.
        error: mean squared difference of scores and targets.
        penalty: of `PENALTIES`, the one that was taken.
    """

    scores: Float[Tensor, "row target"]
    error: float
    penalty: float


def standardised(features: Float[Tensor, "row dim"]) -> Float[Tensor, "row dim"]:
    """Columns of mean 0 and variance 1, in fp64: a few components of a residual stream are huge."""
    wide = features.double()
    wide = wide - wide.mean(0)
    return wide / wide.square().mean(0).sqrt().clamp(min=1e-12)


def leave_one_out(
    features: Float[Tensor, "row dim"],
    targets: Float[Tensor, "row target"],
    groups: Int[np.ndarray, " row"] | None = None,
) -> LeftOut:
    """Scores of every row by the ridge regression on all the others.

    With the hat matrix `H = 11'/n + U diag(s / (s + p)) U'` of centred features, a left-out
    residual is `(y - H y) / (1 - H_ii)`, exactly (Allen 1974; Golub, Heath and Wahba 1979).

    Args:
        features: with columns of mean 0, as `standardised` gives them.
        targets: 1 and -1.
        groups: see `left_out_of_kernel`.
    """
    return _left_out(*_spectrum(features), targets, _several(groups))


def left_out_of_kernel(
    kernel: Float[Tensor, "row row"],
    targets: Float[Tensor, "row target"],
    groups: Int[np.ndarray, " row"] | None = None,
) -> LeftOut:
    """The same from the products of all pairs of rows; kernels of concatenated features add up.

    Args:
        kernel: of centred features.
        targets: 1 and -1.
        groups: a number a row, two or more of them; rows of one number are left out together, whose
            residuals are `(I - H_gg)^-1 (y - H y)_g`, as exactly. None: each row by itself.
    """
    values, vectors = torch.linalg.eigh(kernel)
    return _left_out(vectors, values.clamp(min=0), targets, _several(groups))


def _several(groups: Int[np.ndarray, " row"] | None) -> list[Int[Tensor, " _some"]]:
    """The rows of each group that has more than one."""
    if groups is None:
        return []
    _, own, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    parts = np.split(np.argsort(own, kind="stable"), np.cumsum(sizes)[:-1])
    return [torch.from_numpy(part) for part in parts if len(part) > 1]


def _left_out(
    basis: Float[Tensor, "row rank"],
    spectrum: Float[Tensor, " rank"],
    targets: Float[Tensor, "row target"],
    together: Sequence[Int[Tensor, " _some"]] = (),
) -> LeftOut:
    offset = targets.double() - targets.double().mean(0)
    inside, squares = basis.T @ offset, basis.square()
    # Per row, not per dimension: then both ways to the spectrum mean the same penalties.
    mean = spectrum.sum() / len(basis)
    best: LeftOut | None = None
    for share in PENALTIES:
        kept = spectrum / (spectrum + share * mean).clamp(min=1e-300)
        fitted = basis @ (kept[:, None] * inside)
        free = (1 - squares @ kept - 1 / len(basis)).clamp(min=1e-9)
        residuals = (offset - fitted) / free[:, None]
        for rows in together:
            seen = (basis[rows] * kept) @ basis[rows].T + 1 / len(basis)
            others = torch.eye(len(rows), dtype=seen.dtype) - seen
            residuals[rows] = torch.linalg.solve(others, (offset - fitted)[rows])
        error = float(residuals.square().mean())
        if best is None or error < best.error:
            best = LeftOut(targets.double() - residuals, error, share)
    assert best is not None
    return best


def _spectrum(
    features: Float[Tensor, "row dim"],
) -> tuple[Float[Tensor, "row rank"], Float[Tensor, " rank"]]:
    """Left singular vectors and squared singular values, by the smaller of both products."""
    num_rows, dim = features.shape
    if dim >= num_rows:
        values, vectors = torch.linalg.eigh(features @ features.T)
        return vectors, values.clamp(min=0)
    values, vectors = torch.linalg.eigh(features.T @ features)
    kept = values > values[-1] * 1e-12
    return features @ (vectors[:, kept] / values[kept].sqrt()), values[kept]
