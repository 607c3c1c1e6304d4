"""Leave-one-out scores in closed form against leaving one out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from pillion.select.ridge import leave_one_out, left_out_of_kernel, standardised

ROWS = 40


def material(dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    features = standardised(torch.randn(ROWS, dim, generator=generator) * 100 + 5)
    signs = torch.randint(0, 2, (ROWS, 3), generator=generator).double() * 2 - 1
    return features, signs


@pytest.mark.parametrize("dim", [7, 90], ids=["tall", "wide"])
def test_scores_are_those_of_a_ridge_fit_on_all_other_rows(
    dim: int, generator: torch.Generator
) -> None:
    features, signs = material(dim, generator)
    got = leave_one_out(features, signs)
    alpha = got.penalty * float(features.square().sum()) / ROWS

    for row in range(0, ROWS, 7):
        rest = torch.arange(ROWS) != row
        fitted = Ridge(alpha=alpha).fit(features[rest].numpy(), signs[rest].numpy())
        wanted = torch.from_numpy(fitted.predict(features[row : row + 1].numpy()))
        torch.testing.assert_close(got.scores[row : row + 1], wanted, atol=1e-8, rtol=1e-8)
    assert got.error == pytest.approx(float((got.scores - signs).square().mean()))


def test_a_kernel_gives_what_its_features_give(generator: torch.Generator) -> None:
    one, signs = material(7, generator)
    two, _ = material(90, generator)
    both = torch.cat([one, two], 1)
    by_kernel = left_out_of_kernel(one @ one.T + two @ two.T, signs)

    torch.testing.assert_close(by_kernel.scores, leave_one_out(both, signs).scores)


def test_rows_of_a_group_are_left_out_together(generator: torch.Generator) -> None:
    """Each group's scores are those of the ridge on all other rows, at the penalty named."""
    features = torch.randn(9, 14, generator=generator, dtype=torch.float64)
    features -= features.mean(0)
    signs = torch.randn(9, 2, generator=generator, dtype=torch.float64).sign()
    kernel, groups = features @ features.T, np.array([7, 3, 7, 5, 5, 5, 1, 3, 2])
    found = left_out_of_kernel(kernel, signs, groups)
    ridge = found.penalty * kernel.trace() / len(kernel)
    for group in np.unique(groups):
        inside = torch.from_numpy(groups == group)
        rest, middle = features[~inside], features[~inside].mean(0)
        of_rest = signs[~inside].mean(0)
        gram = (rest - middle).T @ (rest - middle) + ridge * torch.eye(14, dtype=torch.float64)
        weights = torch.linalg.solve(gram, (rest - middle).T @ (signs[~inside] - of_rest))
        wanted = (features[inside] - middle) @ weights + of_rest
        torch.testing.assert_close(found.scores[inside], wanted)
    by_features = leave_one_out(features, signs, groups)
    torch.testing.assert_close(by_features.scores, found.scores)
    alone = left_out_of_kernel(kernel, signs, np.arange(9))
    assert torch.equal(alone.scores, left_out_of_kernel(kernel, signs).scores)


def test_standardised_columns_have_mean_zero_and_variance_one_and_constant_ones_are_zero() -> None:
    features = torch.randn(50, 3) * torch.tensor([1e-3, 1.0, 1e6]) + 7
    got = standardised(torch.cat([features, torch.full((50, 1), 3.0)], 1))

    torch.testing.assert_close(got.mean(0), torch.zeros(4).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(got[:, :3].var(0, correction=0), torch.ones(3).double())
    assert not got[:, 3].any()
