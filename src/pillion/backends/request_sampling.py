"""Each request's own sampling, as a logits processor of transformers' continuous batching.

Knows requests and rows of logits, nothing of steps or hidden states.
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

from pillion.backends.paged import EngineRequest


class RequestSampling(ContinuousBatchingLogitsProcessor):
    """RequestSampling each request's token in its own way; the engine then takes the likeliest.

    transformers knows a temperature and top_p a request, but one way to draw for all, no seed, and
    log-probabilities after the temperature only.
    """

    def __init__(self, engine_requests: dict[str, EngineRequest]) -> None:
        self.supported_kwargs, self.ignored_kwargs = {}, ()
        self.engine_requests = engine_requests
        self.rows: list[tuple[int, EngineRequest]] = []
        self.lengths: list[int] = []
        self.failed: dict[str, str] = {}
        self.logs: dict[str, tuple[int, Float[Tensor, " vocab"]]] = {}

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """There is nothing to fill in."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Int[Tensor, " none"]:
        """Notes whose logits the next rows are; needs no argument on the device."""
        states = [future.state for future in requests_with_new_token]
        named = [self.engine_requests.get(state.request_id) for state in states]
        self.rows = [
            (row, engine_request) for row, engine_request in enumerate(named) if engine_request
        ]
        self.lengths = [len(s.initial_tokens) + len(s.generated_tokens) for s in states]
        return torch.zeros(0, dtype=torch.int32)

    def __call__(
        self, scores: Float[Tensor, "row vocab"], tensor_arg: Tensor
    ) -> Float[Tensor, "row vocab"]:
        """The logits; where a token was drawn, it is the likeliest.

        What is wrong with one row ends its own request, and no other.
        """
        sound = torch.isfinite(scores.amax(-1)).tolist()  # minus infinity may bar some tokens
        for row, engine_request in self.rows:
            if not sound[row]:
                self.failed[engine_request.request] = "the model's logits are not finite"
                continue
            try:
                self._draw(scores[row : row + 1], engine_request, self.lengths[row])
            except Exception as error:  # of whatever kind: the others must get their tokens
                self.failed[engine_request.request] = f"no token could be drawn: {error}"
        return scores

    def _draw(
        self, logits: Float[Tensor, "1 vocab"], engine_request: EngineRequest, num_tokens: int
    ) -> None:
        if engine_request.top_logprobs is not None:
            top = min(engine_request.top_logprobs, logits.shape[-1])
            self.logs[engine_request.request] = top, logits[0].log_softmax(-1)
        if engine_request.draw:
            if engine_request.draw.num_drawn != num_tokens - len(engine_request.token_ids):
                raise ValueError("a token that was drawn has been lost")
            logits[0, engine_request.draw(logits)] = torch.inf

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


def processors(draws: RequestSampling) -> ContinuousBatchingLogitsProcessorList:
    """The draws as the only processor of logits."""
    found = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([draws]))
    found.tensors_required = 1  # a row of arguments, which stays empty
    return found
