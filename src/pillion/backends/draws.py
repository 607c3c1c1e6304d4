"""Draws of each request's own, as a processor of logits in transformers' continuous batching.

Knows tickets and rows of logits, nothing of steps or hidden states.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from pillion.backends.paged import Ticket


class Draws(ContinuousBatchingLogitsProcessor):
    """Draws each request's token in its own way; the engine then takes the likeliest.

    transformers knows a temperature and top_p a request, but one way to draw for all, no seed, and
    log-probabilities after the temperature only.
    """

    def __init__(self, tickets: dict[str, Ticket]) -> None:
        self.supported_kwargs, self.ignored_kwargs = {}, ()
        self.tickets = tickets
        self.rows: list[tuple[int, Ticket]] = []
        self.lengths: list[int] = []
        self.failed: dict[str, str] = {}
        self.logs: dict[str, tuple[int, Float[Tensor, " vocab"]]] = {}

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """There is nothing to fill in."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Int[Tensor, " none"]:
        """Notes whose logits the next rows are; needs no argument on the device."""
        states = [future.state for future in requests_with_new_token]
        named = [self.tickets.get(state.request_id) for state in states]
        self.rows = [(row, ticket) for row, ticket in enumerate(named) if ticket]
        self.lengths = [len(s.initial_tokens) + len(s.generated_tokens) for s in states]
        return torch.zeros(0, dtype=torch.int32)

    def __call__(
        self, scores: Float[Tensor, "row vocab"], tensor_arg: Tensor
    ) -> Float[Tensor, "row vocab"]:
        """The logits; where a token was drawn, it is the likeliest.

        What is wrong with one row ends its own request, and no other.
        """
        sound = torch.isfinite(scores.amax(-1)).tolist()  # minus infinity may bar some tokens
        for row, ticket in self.rows:
            if not sound[row]:
                self.failed[ticket.request] = "the model's logits are not finite"
                continue
            try:
                self._draw(scores[row : row + 1], ticket, self.lengths[row])
            except Exception as error:  # of whatever kind: the others must get their tokens
                self.failed[ticket.request] = f"no token could be drawn: {error}"
        return scores

    def _draw(self, logits: Float[Tensor, "1 vocab"], ticket: Ticket, num_tokens: int) -> None:
        if ticket.top_logprobs is not None:
            top = min(ticket.top_logprobs, logits.shape[-1])
            self.logs[ticket.request] = top, logits[0].log_softmax(-1)
        if ticket.draw:
            if ticket.draw.num_drawn != num_tokens - len(ticket.token_ids):
                raise ValueError("a token that was drawn has been lost")
            logits[0, ticket.draw(logits)] = torch.inf

    def logprobs(
        self, request: str, token: int
    ) -> tuple[float | None, tuple[tuple[int, float], ...]]:
        """Log-probability of the token that was drawn, and of the likeliest ones."""
        if request not in self.logs:
            return None, ()
        top, logs = self.logs[request]
        best = logs.topk(top)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return float(logs[token]), tuple(pairs)

    def clear(self) -> None:
        """The tokens of the step have been handed over."""
        self.logs.clear()
        self.failed.clear()


def processors(draws: Draws) -> ContinuousBatchingLogitsProcessorList:
    """The draws as the only processor of logits."""
    found = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([draws]))
    found.tensors_required = 1  # a row of arguments, which stays empty
    return found
