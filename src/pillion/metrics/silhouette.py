"""Mean silhouette coefficient of labelled rows: how apart the classes lie, layer by layer.

Three forms: Euclidean, exact and blocked (what Gwak & Jung, KNIT 2025, read layers with), and
cosine and squared Euclidean in closed form, which need no pairs. Knows neither files nor models.

With a the mean distance of a row to the others of its class and b the smallest mean distance to
another class, its coefficient is `(b - a) / max(a, b)`: 0 for the only row of a class, as in
Rousseeuw (1987). The mean over all rows lies in [-1, 1].
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.errors import DataError, StateError, unknown_name

DISTANCES = ("euclidean", "cosine", "squared")

TILE_ROWS, TILE_COLUMNS = 512, 2048
"""Pairs that are measured at once: 4 MB of fp32, which stays in the processor's cache."""

NEAR = 0.1
"""Below this share of a row's norm a mean distance has lost digits in fp32, where it comes from a
difference of squares; it is then measured again in fp64."""
NEAR_OF_SQUARE = 1e-2
"""The same for the closed forms: share of a row's squared norm."""


def mean_silhouette(
    states: Float[Tensor, "row dim"],
    class_ids: Int[Tensor, " id"],
    distance: str = "euclidean",
) -> float | None:
    """The mean silhouette coefficient of all rows, in [-1, 1].

    None with fewer than two classes, or where every class has one row. Euclidean takes all pairs,
    each once, in fp32 blocks on centred states with sums in fp64, and memory for one block and for
    (row, class). The others take O(rows * classes * dim), from
    `sum_j |x - y_j|^2 = N |x|^2 + sum |y_j|^2 - 2 x . sum y_j`; a cosine distance is half the
    squared distance of unit vectors.

    Args:
        states: one a row, in any floating dtype.
        class_ids: the class of each row: any whole numbers.
        distance: `euclidean`, `cosine` (a zero row is at distance 1/2 from all others) or `squared`
            (Euclidean).

    Raises:
        ConfigError: an unknown distance.
        DataError: as many class ids as rows are needed.
        StateError: a state that is not finite.
    """
    if distance not in DISTANCES:
        raise unknown_name("distance", distance, DISTANCES)
    if len(states) != len(class_ids):
        raise DataError(f"Got {len(class_ids)} class ids for {len(states)} rows; give one a row.")
    if not bool(torch.isfinite(states.sum())) and not bool(torch.isfinite(states).all()):
        raise StateError("A state is not finite; run the model in bfloat16 or float32.")
    _, ids, counts = class_ids.unique(return_inverse=True, return_counts=True)
    if len(counts) < 2 or len(counts) == len(ids):
        return None
    sums = {"euclidean": _euclidean, "cosine": _cosine, "squared": _squared}[distance]
    return _mean_coefficient(sums(states, ids, counts), ids, counts)


def _mean_coefficient(
    sums: Float[Tensor, "row label"], ids: Int[Tensor, " row"], counts: Int[Tensor, " label"]
) -> float:
    """From every row's summed distance to every class."""
    own, other = _own_and_nearest(sums, ids, counts)
    largest = torch.maximum(own, other)
    # Rows that all lie in one place are neither near nor far.
    each = (other - own) / largest.clamp(min=1e-300)
    return float(each.masked_fill(counts[ids] == 1, 0.0).mean())


def _own_and_nearest(
    sums: Float[Tensor, "row label"], ids: Int[Tensor, " row"], counts: Int[Tensor, " label"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Mean distance to the others of the own class, and to the nearest other class."""
    own = sums.gather(1, ids[:, None]).squeeze(1) / (counts[ids] - 1)  # a row alone has no others
    means = (sums / counts).scatter(1, ids[:, None], torch.inf)
    return own, means.amin(1)


def _membership(
    ids: Int[Tensor, " row"], counts: Int[Tensor, " label"], dtype: torch.dtype
) -> Float[Tensor, "row label"]:
    return torch.nn.functional.one_hot(ids, len(counts)).to(dtype)


# -- Euclidean: all pairs


def _euclidean(
    states: Float[Tensor, "row dim"], ids: Int[Tensor, " row"], counts: Int[Tensor, " label"]
) -> Float[Tensor, "row label"]:
    # Distances stay when all rows move, and the digits of a common offset come free.
    centred = states.float() - states.float().mean(0)
    sums = _pair_sums(centred, _membership(ids, counts, torch.float32))
    near = _is_near(sums, centred.norm(dim=1), NEAR, ids, counts).nonzero().squeeze(1)
    if len(near):
        exact, belongs = centred.double(), _membership(ids, counts, torch.float64)
        for rows in near.split(TILE_ROWS):
            left, right = _factors(exact[rows], exact)
            sums[rows] = (left @ right.T).clamp_(min=0).sqrt_() @ belongs
    return sums


def _pair_sums(
    centred: Float[Tensor, "row dim"], belongs: Float[Tensor, "row label"]
) -> Float[Tensor, "row label"]:
    """Summed distances by class; each pair of tiles is measured once and counted for both."""
    left, right = _factors(centred, centred)
    # [label, row]: a few long rows times a wide tile is the fast shape of this product.
    belongs = belongs.T.contiguous()
    sums = torch.zeros(belongs.shape, dtype=torch.float64, device=centred.device)
    num_rows = len(centred)
    for start in range(0, num_rows, TILE_ROWS):
        rows = slice(start, min(start + TILE_ROWS, num_rows))
        for first in range(start, num_rows, TILE_COLUMNS):
            columns = slice(first, min(first + TILE_COLUMNS, num_rows))
            tile = (left[rows] @ right[columns].T).clamp_(min=0).sqrt_()
            if first == start:
                tile.diagonal().zero_()
            sums[:, rows] += belongs[:, columns] @ tile.T
            late = slice(max(first, rows.stop), columns.stop)
            sums[:, late] += belongs[:, rows] @ tile[:, late.start - first :]
    return sums.T.contiguous()


def _factors(
    rows: Float[Tensor, "row dim"], columns: Float[Tensor, "column dim"]
) -> tuple[Float[Tensor, "row wide"], Float[Tensor, "column wide"]]:
    """Factors whose product is the squared distance of every pair: one product, no further pass."""
    norms, others = (x.square().sum(1, keepdim=True) for x in (rows, columns))
    left = torch.cat([rows, norms, torch.ones_like(norms)], dim=1)
    return left, torch.cat([-2 * columns, torch.ones_like(others), others], dim=1)


# -- closed forms: no pairs


def _cosine(
    states: Float[Tensor, "row dim"], ids: Int[Tensor, " row"], counts: Int[Tensor, " label"]
) -> Float[Tensor, "row label"]:
    return _closed(states, ids, counts, unit=True)


def _squared(
    states: Float[Tensor, "row dim"], ids: Int[Tensor, " row"], counts: Int[Tensor, " label"]
) -> Float[Tensor, "row label"]:
    return _closed(states, ids, counts, unit=False)


def _closed(
    states: Float[Tensor, "row dim"],
    ids: Int[Tensor, " row"],
    counts: Int[Tensor, " label"],
    unit: bool,
) -> Float[Tensor, "row label"]:
    sums, norms = _moment_sums(states.float(), ids, counts, unit)
    if bool(_is_near(sums, norms, NEAR_OF_SQUARE, ids, counts).any()):
        sums, _ = _moment_sums(states.double(), ids, counts, unit)
    return sums


def _moment_sums(
    states: Float[Tensor, "row dim"],
    ids: Int[Tensor, " row"],
    counts: Int[Tensor, " label"],
    unit: bool,
) -> tuple[Float[Tensor, "row label"], Float[Tensor, " row"]]:
    """Squared distances of (unit) rows summed by class, and the rows' squared norms, in fp64.

    The states are read three times and never copied: scaling to unit length is a factor a row, and
    the mean m of all rows is taken out of the class means u only. With it a mean distance is
    `|x|^2 - 2 x . m + (mean |y|^2) - 2 x . (u - m)`: what rounding does to the first two terms is
    the same for every class.
    """
    norms = torch.linalg.vector_norm(states, dim=1)
    factor = norms.clamp(min=torch.finfo(norms.dtype).tiny).reciprocal() if unit else None
    squares = norms.double().square() if factor is None else norms.double().sign()
    belongs = _membership(ids, counts, states.dtype).T.contiguous()
    spread = belongs.double() @ squares
    totals = ((belongs if factor is None else belongs * factor) @ states).double()
    mean = totals.sum(0) / len(states)
    directions = torch.cat([totals / counts[:, None] - mean, mean[None]])
    products = (states @ directions.to(states.dtype).T).double()
    if factor is not None:
        products *= factor[:, None]
    own = squares - 2 * products[:, -1]
    means = own[:, None] + spread / counts - 2 * products[:, :-1]
    return (means * counts).clamp_(min=0), squares


# -- for all of them


def _is_near(
    sums: Float[Tensor, "row label"],
    scale: Float[Tensor, " row"],
    share: float,
    ids: Int[Tensor, " row"],
    counts: Int[Tensor, " label"],
) -> Bool[Tensor, " row"]:
    """Rows with a mean distance below a share of their scale, so that rounding shows."""
    own, other = _own_and_nearest(sums, ids, counts)
    alone = counts[ids] == 1
    return torch.where(alone, other, torch.minimum(own, other)) < share * scale
