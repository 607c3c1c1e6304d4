"""Fisher's ratio: how far class means lie apart, against how far rows lie from them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def fisher_ratio(states: Float[Tensor, "row dim"], class_ids: Int[Tensor, " row"]) -> float | None:
    """Between-class scatter over within-class scatter, each summed over components.

    `sum_c N_c |m_c - m|^2 / sum_i |x_i - m_c(i)|^2`, the trace form of Fisher (1936), in fp64: 0 or
    more, without a unit. None with fewer than two classes, or where no row differs from its class.

    Args:
        states: one a row.
        class_ids: the class of each row.
    """
    _, ids, counts = class_ids.unique(return_inverse=True, return_counts=True)
    centred = states.double() - states.double().mean(0)
    means = torch.zeros(len(counts), states.shape[1], dtype=torch.float64, device=states.device)
    means.index_add_(0, ids, centred).div_(counts[:, None])
    between = float((counts * means.square().sum(1)).sum())
    within = float(centred.sub_(means[ids]).square().sum())
    return between / within if len(counts) > 1 and within else None
