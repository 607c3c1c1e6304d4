"""The largest mean of any w tokens in a row: a short attack inside a long harmless text stays loud.

Max of rolling means over attention-weighted tokens (arXiv 2601.11516). The fold is exact under any
cut: beside the largest mean so far it keeps the w - 1 rows at either end, from which `merge` makes
the windows that lie across the cut. Knows no network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.probe.network import State
from pillion.probe.softmax import FLOOR
from pillion.probe.tensors import Mask, Scores, Votes
from pillion.probe.token_pools import TokenPool


class WindowTokens(NamedTuple):
    """Scores and votes of tokens in a row, and which of them are there."""

    scores: Float[Tensor, "layer batch row head"]
    votes: Float[Tensor, "layer batch row head vote"]
    there: Bool[Tensor, "layer batch row"]


class Rolling(TokenPool):
    """`max_t sum_j a_j v_j / sum_j a_j` over the w tokens up to t, with `a = exp(score)`.

    A text shorter than w tokens is one window.

    Args:
        window: w, in tokens, 2 or more.
    """

    def __init__(self, window: int) -> None:
        self.window = window

    def summarise(self, scores: Scores, votes: Votes, mask: Mask) -> State:
        """The largest mean of the chunk's own windows, and the rows at its ends."""
        # Padding before a token; only a processor may be asked without waiting for an answer.
        if mask.device.type != "cpu" or bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            order = torch.sort((~mask).int(), dim=1, stable=True).indices
            every = torch.arange(len(order), device=mask.device)[:, None]
            scores, votes, mask = (
                scores[:, every, order],
                votes[:, every, order],
                mask[every, order],
            )
        rows = WindowTokens(scores, votes, mask[None].expand(len(votes), -1, -1))
        count, kept = mask.sum(1), self.window - 1
        ends = torch.arange(kept, device=mask.device)
        head = _take(rows, ends.expand(len(count), -1), count)
        tail = _take(rows, count[:, None] - kept + ends, count)
        top = self._largest(rows)
        return {"max": top, **_named("head", head), **_named("tail", tail)}

    def merge(self, first: State, second: State) -> State:
        """The largest of both and of the windows across the cut."""
        before, after = _rows("tail", first), _rows("head", second)
        across = WindowTokens(*(torch.cat(pair, 2) for pair in zip(before, after, strict=True)))
        top = torch.maximum(first["max"], second["max"])
        top = torch.maximum(top, self._largest(across))
        kept = self.window - 1
        # All layers hold the same tokens: the first one tells how many.
        short, more = before.there[0].sum(1), after.there[0].sum(1)
        ends = torch.arange(kept, device=short.device)
        # Where the first chunk is shorter than its head, the second one's rows go on from there.
        head = _either(_rows("head", first), _pick(across, kept - short[:, None] + ends), short)
        tail = _either(_rows("tail", second), _pick(across, more[:, None] + ends), more)
        return {"max": top, **_named("head", head), **_named("tail", tail)}

    def pooled(self, state: State) -> Float[Tensor, "layer batch head vote"]:
        """The largest mean, or the mean of a text that is shorter than a window."""
        top, rows = state["max"], _rows("tail", state)
        none = top.isneginf()
        return torch.where(none, self._mean(rows), top.masked_fill(none, 0.0))

    def _mean(self, rows: WindowTokens) -> Float[Tensor, "layer batch head vote"]:
        there = rows.there[..., None]
        weights = rows.scores.masked_fill(~there, FLOOR).softmax(2) * there
        return (weights[..., None] * rows.votes).sum(2)

    def _largest(self, rows: WindowTokens) -> Float[Tensor, "layer batch head vote"]:
        """Over windows that are whole; minus infinity where there is none."""
        scores, votes, there = rows
        places = scores.shape[2] - self.window + 1
        if places < 1:
            return votes.new_full((*votes.shape[:2], *votes.shape[3:]), -torch.inf)
        scores = scores.masked_fill(~there[..., None], FLOOR)
        votes = votes.masked_fill(~there[..., None, None], 0.0)
        spans = [slice(i, i + places) for i in range(self.window)]
        top = torch.stack([scores[:, :, span].detach() for span in spans]).amax(0)
        total, weighted = torch.zeros_like(top), 0.0
        for span in spans:  # window by window would take w times the memory
            weights = (scores[:, :, span] - top).exp()
            total = total + weights
            weighted = weighted + weights[..., None] * votes[:, :, span]
        whole = torch.stack([there[:, :, span] for span in spans]).all(0)
        means = weighted / total[..., None]
        return means.masked_fill(~whole[..., None, None], -torch.inf).amax(2)


def _take(
    rows: WindowTokens, places: Int[Tensor, "batch end"], count: Int[Tensor, " batch"]
) -> WindowTokens:
    """The rows at some places; absent where a place is not among the first `count`."""
    wrong = (places < 0) | (places >= count[:, None])
    picked = _pick(rows, places.clamp(0, rows.there.shape[2] - 1))
    return WindowTokens(
        picked.scores.masked_fill(wrong[None, :, :, None], 0.0),
        picked.votes.masked_fill(wrong[None, :, :, None, None], 0.0),
        picked.there & ~wrong,
    )


def _pick(rows: WindowTokens, places: Int[Tensor, "batch end"]) -> WindowTokens:
    every = torch.arange(len(places), device=places.device)[:, None]
    return WindowTokens(*(part[:, every, places] for part in rows))


def _either(
    whole: WindowTokens, pieced: WindowTokens, count: Int[Tensor, " batch"]
) -> WindowTokens:
    """`whole` where it is full, else `pieced`."""
    full = (count >= whole.there.shape[2])[None, :, None]
    chosen = (
        torch.where(full.view(1, -1, *[1] * (one.ndim - 2)), one, other)
        for one, other in zip(whole, pieced, strict=True)
    )
    return WindowTokens(*chosen)


def _named(end: str, rows: WindowTokens) -> State:
    parts = rows._replace(there=rows.there.float())
    return {f"{end}_{name}": part for name, part in zip(WindowTokens._fields, parts, strict=True)}


def _rows(end: str, state: State) -> WindowTokens:
    rows = WindowTokens(*(state[f"{end}_{name}"] for name in WindowTokens._fields))
    return rows._replace(there=rows.there > 0.5)
