"""Logistic regression is at its optimum, or there is no number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from pillion.errors import ConvergenceError
from pillion_bench.baselines import newton
from pillion_bench.baselines.logistic import Goal, fit_logistic
from pillion_bench.baselines.newton import Rows, principal_axes, solve


def blobs(classes: int, rows: int = 300, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes on features of very different size that go together."""
    chance = np.random.default_rng(0)
    ids = chance.integers(classes, size=rows)
    features = chance.normal(size=(rows, width)) + chance.normal(size=(classes, width))[ids]
    mixed = features @ chance.normal(size=(width, width)) * np.logspace(-1, 1, width)
    return mixed.astype(np.float32), ids


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("matrix", [np.asarray, csr_matrix], ids=["dense", "sparse"])
def test_the_optimum_is_that_of_scikit_learn(strength: float, classes: int, matrix: Any) -> None:
    features, ids = blobs(classes)
    model = LogisticRegression(C=strength, solver="newton-cg", tol=1e-8, max_iter=5000)
    wanted = model.fit(features.astype(np.float64), ids).predict_proba(features)
    binary = classes == 2
    goal = Goal("binary" if binary else "multiclass", 1 if binary else classes, "accuracy")
    rows = matrix(features), ids
    found = fit_logistic(rows, rows, goal, (strength,)).predict(rows[0])
    assert found == pytest.approx(wanted[:, 1:] if binary else wanted, abs=0.01)
    assert np.abs(found - (wanted[:, 1:] if binary else wanted)).mean() < 2e-3


def test_columns_of_several_labels_are_fitted_as_if_alone() -> None:
    features, ids = blobs(3)
    wanted = np.stack([ids > 0, ids == 1], 1).astype(np.float32)
    both = solve(Rows(features), wanted, 1.0, "sigmoid")
    for place in range(2):
        alone = solve(Rows(features), wanted[:, [place]], 1.0, "sigmoid")
        probs = expit(both.logits(features)[:, place]), expit(alone.logits(features)[:, 0])
        assert probs[0] == pytest.approx(probs[1], abs=0.01)


def test_hundreds_of_labels_do_not_stop_where_they_began() -> None:
    """With 151 labels every gradient is small at the start.

    A tolerance of 1e-3 on the gradient was met at once: no step was taken, and every label had the
    same probability.
    """
    chance = np.random.default_rng(0)
    ids = np.arange(600) % 150
    features = np.eye(150)[ids] * 0.1 + chance.normal(size=(600, 150)) * 0.001
    goal = Goal("multiclass", 150, "accuracy")
    model = fit_logistic((features, ids), (features, ids), goal, (10.0,))
    assert model.quality.log_loss < math.log(150) - 0.3
    assert (model.predict(features).argmax(1) == ids).mean() == 1


def test_a_weak_penalty_is_fitted_from_nothing_too() -> None:
    """A refit begins at zero: there Newton's first step made every label certain of every row."""
    chance = np.random.default_rng(1)

    def word() -> str:
        return "".join(chance.choice(list("aeiourstnl"), size=chance.integers(2, 6)))

    shared = [word() for _ in range(60)]
    own = [[word() for _ in range(4)] for _ in range(150)]
    ids = np.arange(1050) % 150
    texts = [" ".join([*chance.choice(shared, 6), *chance.choice(own[one], 2)]) for one in ids]
    characters = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 3))
    rows = characters.fit_transform(texts), ids
    goal = Goal("multiclass", 150, "accuracy")
    again = fit_logistic(rows, rows, goal, (100.0,)).predict(rows[0])
    by_path = fit_logistic(rows, rows, goal, (1.0, 10.0, 100.0, 1e3, 1e4)).tried[100.0]
    assert (again.argmax(1) == ids).mean() == pytest.approx(by_path.score, abs=1e-3)


def test_a_fit_that_is_not_at_its_optimum_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    features, ids = blobs(3)
    monkeypatch.setattr(newton, "STEPS", 1)
    with pytest.raises(ConvergenceError, match=r"C = 10 .* not at its optimum after 1 Newton"):
        solve(Rows(features), np.eye(3)[ids], 10.0, "softmax")


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_principal_axes_keep_lengths_and_angles_of_rows(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    axes = principal_axes(rows)
    assert axes is not None and axes.shape == (shape[1], min(shape))
    assert axes.T @ axes == pytest.approx(np.eye(min(shape)), abs=1e-5)
    turned = rows @ axes
    assert turned @ turned.T == pytest.approx(rows @ rows.T, abs=1e-3)
    together = turned.T @ turned
    assert together == pytest.approx(np.diag(np.diag(together)), abs=1e-2)
