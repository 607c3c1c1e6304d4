"""How many layers to read: what each further one adds to the score, and which ones they are.

Promises nested sets of 1, 2, 4, 8 and all layers, found without training a probe. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.select.ridge import left_out_of_kernel, standardised
from pillion.select.study import OnLayer, Targets

SIZES = (1, 2, 4, 8)
ORDER_ROWS = 500
"""Rows on which layers are put in order: each candidate costs a decomposition of rows x rows."""


@dataclass(frozen=True)
class LayerSet:
    """Some layers and what they hold together.

    Attributes:
        layers: ascending.
        score: of a ridge classifier on their concatenated pooled states, on left-out rows.
        left_out: what it says of each row that it has not seen; None where it is not known.
    """

    layers: tuple[int, ...]
    score: float | None
    left_out: Float[Tensor, "row target"] | None = field(default=None, repr=False, compare=False)


def layer_sets(
    states: Float[Tensor, "layer row dim"],
    targets: Targets,
    layers: Sequence[int],
    on_layer: OnLayer = lambda done, total: None,
) -> list[LayerSet]:
    """1, 2, 4 and 8 layers by forward selection, each set within the next, and all of them.

    The layer that lowers the leave-one-out squared error most is added, again and again. Ridge
    regression on concatenated layers needs the sum of the layers' kernels only, so that no wide
    matrix is made.

    Args:
        states: pooled, one a row of text.
        targets: their labels.
        layers: the numbers of the layers.
        on_layer: told of every layer that has been added.
    """
    order = _order(states, targets, on_layer)
    sizes = [size for size in SIZES if size < len(layers)]
    places = [order[:size] for size in sizes]
    kernel = torch.zeros(states.shape[1], states.shape[1], dtype=torch.float64)
    found: list[LayerSet] = []
    for before, chosen in pairwise([[], *places, list(range(len(layers)))]):
        for place in chosen:
            if place not in before:
                kernel += _kernel(states[place])
        left_out = left_out_of_kernel(kernel, targets.signs, targets.together()).scores
        numbers = tuple(sorted(layers[place] for place in chosen))
        found.append(LayerSet(numbers, targets.score(left_out), left_out))
    return found


def _order(
    states: Float[Tensor, "layer row dim"], targets: Targets, on_layer: OnLayer
) -> list[int]:
    """Places of layers in the order in which they are added, the first `SIZES[-1]`."""
    kernels = [_kernel(layer[:ORDER_ROWS]) for layer in states]
    signs, groups = targets.signs[:ORDER_ROWS], targets.together(ORDER_ROWS)
    total, order = torch.zeros_like(kernels[0]), list[int]()
    most = min(SIZES[-1], len(kernels))
    while len(order) < most:
        rest = [place for place in range(len(kernels)) if place not in order]
        errors = {p: left_out_of_kernel(total + kernels[p], signs, groups).error for p in rest}
        order.append(min(rest, key=errors.__getitem__))
        total += kernels[order[-1]]
        on_layer(len(order), most)
    return order


def _kernel(states: Float[Tensor, "row dim"]) -> Float[Tensor, "row row"]:
    features = standardised(states).float()
    return (features @ features.T).double() / states.shape[1]
