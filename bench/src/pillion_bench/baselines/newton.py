"""Ridge-penalised logistic regression by truncated Newton steps, to its optimum or an error.

Promises that what comes back is converged, for dense and sparse features and hundreds of labels.
Does not know where features come from, nor what chooses the penalty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.special import log_softmax

from pillion.errors import ConvergenceError

Link = Literal["softmax", "sigmoid"]
Features = Any
"""A dense or sparse matrix of floats, a row a text."""

GAIN, LEAST_GAIN = 1e-5, 1e-6
"""Converged: what another step would still take off the loss is below this share of it, or below so
many nats a row."""
STEPS, CG_STEPS, HALVINGS = 100, 250, 30
ROTATED = 8192
"""Dense features are rotated to their principal axes where the smaller side is at most this."""


@dataclass(frozen=True)
class Solution:
    """Weights at the optimum.

    Attributes:
        weights: in fp32.
        bias: carries no penalty.
        steps: of Newton that were taken.
    """

    weights: Float[np.ndarray, "feature output"]
    bias: Float[np.ndarray, " output"]
    steps: int

    def logits(self, features: Features) -> Float[np.ndarray, "row output"]:
        """Logits of rows of features."""
        return features @ self.weights + self.bias


class Rows:
    """Features that models are fitted on, in fp32, with what all fits on them share.

    Args:
        features: dense or sparse.
    """

    def __init__(self, features: Features) -> None:
        is_sparse = sparse.issparse(features)
        self.features: Any = (sparse.csr_array if is_sparse else np.asarray)(
            features, dtype=np.float32
        )
        self.turned = self.features.T.tocsr() if is_sparse else self.features.T
        squares = self.features.multiply(self.features) if is_sparse else self.features**2
        self.mean_squares = np.asarray(squares.mean(0), dtype=np.float32).ravel()[:, None]

    def __len__(self) -> int:
        return self.features.shape[0]


def principal_axes(features: Float[np.ndarray, "row feature"]) -> np.ndarray | None:
    """An orthonormal basis of the rows, [feature, axis]; None where it would take too long.

    The penalty does not see a rotation, so that the optimum is the same; but the solver's
    preconditioner, a diagonal, then knows how features go together.
    """
    num_rows, num_features = features.shape
    if min(num_rows, num_features) > ROTATED:
        return None
    if num_features <= num_rows:
        return np.linalg.eigh((features.T @ features).astype(np.float64))[1].astype(np.float32)
    values, vectors = np.linalg.eigh((features @ features.T).astype(np.float64))
    kept = values > values[-1] * 1e-10
    axes = features.T.astype(np.float64) @ (vectors[:, kept] / np.sqrt(values[kept]))
    return np.linalg.qr(axes)[0].astype(np.float32)


def solve(
    rows: Rows,
    targets: Float[np.ndarray, "row output"],
    strength: float,
    link: Link,
    start: Solution | None = None,
) -> Solution:
    """Minimises the mean cross-entropy plus `|weights|^2 / (2 * strength * rows)`.

    That is scikit-learn's objective with C = `strength`. Steps are those of Newton, solved by
    preconditioned conjugate gradients and shortened until the loss falls enough (Nocedal and Wright
    2006, algorithm 7.1). Half of `gradient . step` is what a step gains; it decides convergence.

    Args:
        rows: features.
        targets: 0 or 1; one a row for `softmax`.
        strength: C; the larger, the weaker the penalty.
        link: what turns logits into probabilities.
        start: another optimum to begin at.

    Raises:
        ConvergenceError: not at the optimum after `STEPS` steps.
    """
    problem = _Loss(rows, targets, strength, link)
    point = problem.point(start)
    logits = problem.logits(point)
    loss = problem.value(point, logits)
    first = 0.0
    for step in range(STEPS):
        curve = _Curve(problem, logits)
        gradient = problem.gradient(point, curve.probs)
        size = float(np.linalg.norm(gradient))
        first = first or size
        # Loose far from the optimum, where exact steps are wasted; then ever tighter.
        move, _ = _conjugate_gradients(curve, -gradient, min(0.25, (size / (first + 1e-30)) ** 0.5))
        slope = float(np.vdot(gradient, move))
        if -slope / 2 <= max(GAIN * loss, LEAST_GAIN):
            return problem.solution(point, step)
        moved = problem.logits(move)
        share, found = 1.0, np.inf
        for _ in range(HALVINGS):
            found = problem.value(point + share * move, logits + share * moved)
            if found <= loss + 1e-4 * share * slope:
                break
            share /= 2
        else:
            break
        point, logits, loss = point + share * move, logits + share * moved, found
    raise ConvergenceError(
        f"Logistic regression with C = {strength:g} is not at its optimum after {STEPS} Newton "
        f"steps on {len(rows):,} rows; give smaller strengths, or features of similar size."
    )


class _Loss:
    """The loss of one fit, its gradient, and the form of a point: weights with the bias below."""

    def __init__(self, rows: Rows, targets: np.ndarray, strength: float, link: Link) -> None:
        self.rows, self.link = rows, link
        self.targets = targets.astype(np.float32)
        self.penalty = np.float32(1 / (strength * len(rows)))

    def point(self, start: Solution | None) -> np.ndarray:
        if start is not None:
            return np.concatenate([start.weights, start.bias[None]]).astype(np.float32)
        return np.zeros((self.rows.features.shape[1] + 1, self.targets.shape[1]), np.float32)

    def solution(self, point: np.ndarray, steps: int) -> Solution:
        return Solution(point[:-1], point[-1], steps)

    def logits(self, point: np.ndarray) -> np.ndarray:
        return self.rows.features @ point[:-1] + point[-1]

    def value(self, point: np.ndarray, logits: np.ndarray) -> float:
        if self.link == "softmax":
            losses = -(log_softmax(logits, 1) * self.targets)
        else:
            losses = np.logaddexp(0, logits) - logits * self.targets
        total = losses.sum(dtype=np.float64) / len(self.rows)
        return float(total + self.penalty / 2 * np.square(point[:-1], dtype=np.float64).sum())

    def gradient(self, point: np.ndarray, probs: np.ndarray) -> np.ndarray:
        found = self.back(probs - self.targets)
        found[:-1] += self.penalty * point[:-1]
        return found

    def back(self, of_logits: np.ndarray) -> np.ndarray:
        """From what stands at logits to weights and bias, as a mean over rows."""
        return np.concatenate([self.rows.turned @ of_logits, of_logits.sum(0)[None]]) / np.float32(
            len(self.rows)
        )


class _Curve:
    """The second derivative of a loss at a point: products with it, and nearly its inverse."""

    def __init__(self, problem: _Loss, logits: np.ndarray) -> None:
        self.problem = problem
        if problem.link == "softmax":
            self.probs = np.exp(log_softmax(logits, 1))
        else:
            self.probs = np.exp(-np.logaddexp(0, -logits))
        self.weight = self.probs * (1 - self.probs)
        spread = self.weight.mean(0)[None]
        squares = np.concatenate([problem.rows.mean_squares, np.ones((1, 1), np.float32)])
        # As if every row were as sure of a label as the mean row is.
        diagonal = squares * spread
        diagonal[:-1] += problem.penalty
        self.inverse = 1 / np.maximum(diagonal, 1e-12)

    def times(self, direction: np.ndarray) -> np.ndarray:
        moved = self.problem.logits(direction)
        if self.problem.link == "softmax":
            weighted = self.probs * moved
            weighted -= self.probs * weighted.sum(1, keepdims=True)
        else:
            weighted = self.weight * moved
        found = self.problem.back(weighted)
        found[:-1] += self.problem.penalty * direction[:-1]
        return found


def _conjugate_gradients(
    curve: _Curve, wanted: np.ndarray, tolerance: float
) -> tuple[np.ndarray, int]:
    """The step that the curve turns into `wanted`, up to a share of its length, and the rounds."""
    found = np.zeros_like(wanted)
    left = wanted.copy()
    ready = curve.inverse * left
    direction = ready.copy()
    product = first = float(np.vdot(left, ready))
    for rounds in range(CG_STEPS):
        if product <= tolerance**2 * first:
            return found, rounds
        image = curve.times(direction)
        bend = float(np.vdot(direction, image))
        if bend <= 0:  # rounding, in a direction that the loss does not see
            return (found if rounds else ready), rounds
        share = np.float32(product / bend)
        found += share * direction
        left -= share * image
        ready = curve.inverse * left
        before, product = product, float(np.vdot(left, ready))
        direction = ready + np.float32(product / before) * direction
    return found, CG_STEPS
