"""Mixup (arXiv 1710.09412): a step learns from rows mixed in pairs, and from both rows' labels.

What is mixed is a probe's logits, of whole rows, prefixes or depths alike. Those of a gate, a mean
or an attention are linear in its pooled states, so that this is to mix the pooled states. Does not
know networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """With which other row of a piece each is mixed, and how much of itself is left.

    Attributes:
        share: of the row itself.
        other: place of the row that it is mixed with.
    """

    share: Float[Tensor, " batch"]
    other: Int[Tensor, " batch"]

    def votes(
        self, votes: Float[Tensor, "member batch *more"]
    ) -> Float[Tensor, "member batch *more"]:
        """Logits of the mixed rows."""
        share = self.share.view(1, -1, *(1,) * (votes.ndim - 2))
        return share * votes + (1 - share) * votes[:, self.other]

    def losses(
        self, own: Float[Tensor, "member batch"], other: Float[Tensor, "member batch"]
    ) -> Float[Tensor, "member batch"]:
        """Of the mixed rows, from those against each row's own labels and against the other's."""
        return self.share * own + (1 - self.share) * other


def drawn(alpha: float, num_rows: int, device: torch.device) -> Mixing | None:
    """A mixing by torch's random state; shares are of Beta(alpha, alpha).

    Returns:
        None where alpha is 0.
    """
    if not alpha:
        return None
    share = torch.distributions.Beta(alpha, alpha).sample((num_rows,))
    return Mixing(share.to(device), torch.randperm(num_rows).to(device))
