"""What becomes of the votes of a layer's tokens: the largest, or their weighted mean.

Every pool is an associative fold, and differentiable: training and serving run the same lines.
Knows no network and no layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.probe import softmax
from pillion.probe.network import State
from pillion.probe.tensors import Mask, Scores, Votes

SLOPE_TOKENS = 100
"""A slope is the change of a score over so many tokens: its size is then that of other weights."""


class TokenPool(ABC):
    """One layer's votes of many tokens in, one vote a head out.

    Law: as for `Fold`, whatever the cut, and in every layer for itself.
    """

    @abstractmethod
    def summarise(self, scores: Scores, votes: Votes, mask: Mask) -> State:
        """The state of one chunk; masked scores and votes may be anything."""

    @abstractmethod
    def merge(self, first: State, second: State) -> State:
        """The state of two neighbouring chunks."""

    @abstractmethod
    def pooled(self, state: State) -> Float[Tensor, "layer batch head vote"]:
        """What was pooled; zero where there was no token."""


class Largest(TokenPool):
    """The largest vote of any token, for every head and class: MultiMax (arXiv 2601.11516)."""

    def summarise(self, scores: Tensor, votes: Tensor, mask: Mask) -> State:
        """The largest vote of each head and class in the chunk."""
        return {"max": votes.masked_fill(~mask[None, :, :, None, None], -torch.inf).amax(2)}

    def merge(self, first: State, second: State) -> State:
        """The larger of both."""
        return {"max": torch.maximum(first["max"], second["max"])}

    def pooled(self, state: State) -> Float[Tensor, "layer batch head vote"]:
        """The state is the vote."""
        return state["max"].masked_fill(state["max"].isneginf(), 0.0)


class AttentionPool(TokenPool):
    """The softmax-weighted mean, with scores that may rise or fall with a token's place.

    A place counts the tokens before it in its own chunk; `merge` then moves the second chunk's
    scores up by slope times the tokens of the first. A softmax knows scores by their running
    maximum only, so that is one addition, and no chunk needs to know where it begins.

    Args:
        slope: of every head, in score a `SLOPE_TOKENS` tokens; None where places do not count.
    """

    def __init__(self, slope: Float[Tensor, " head"] | None) -> None:
        self.slope = slope

    def summarise(self, scores: Scores, votes: Votes, mask: Mask) -> State:
        """The softmax of one chunk, and how many tokens it had if places count."""
        if self.slope is None:
            return softmax.summarise(scores, votes, mask)
        place = (mask.cumsum(1) - 1).clamp(min=0).float()
        scores = scores + place[None, :, :, None] * (self.slope / SLOPE_TOKENS)
        count = {"count": _count(mask, len(votes))}
        return softmax.summarise(scores, votes, mask) | count

    def merge(self, first: State, second: State) -> State:
        """The softmax of both, the second's scores moved to where its tokens stand."""
        if self.slope is None:
            return softmax.merge(first, second)
        moved = second["max"] + first["count"] * (self.slope / SLOPE_TOKENS)
        both = softmax.merge(first, {**second, "max": moved})
        return both | {"count": first["count"] + second["count"]}

    def pooled(self, state: State) -> Float[Tensor, "layer batch head vote"]:
        """The weighted mean of each head's votes."""
        return softmax.mean(state)


def _count(mask: Tensor, num_layers: int) -> Float[Tensor, "layer batch 1"]:
    return mask.sum(1).float()[None, :, None].expand(num_layers, -1, 1)
