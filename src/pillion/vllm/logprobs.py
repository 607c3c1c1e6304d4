"""Log-probabilities of drawn tokens, as vLLM gives them. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pillion.runtime.engine import Request


def logs(answer: Any) -> Sequence[Any]:
    """What vLLM says of each token of an answer; None where they were not asked for."""
    return answer.logprobs if answer.logprobs is not None else [None] * len(answer.token_ids)


def logprobs(
    token: int, told: Any, request: Request
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """Log-probability of the token, and of the likeliest ones, from what vLLM gives."""
    if request.top_logprobs is None or told is None:
        return None, ()
    ranked = sorted(told.items(), key=lambda pair: pair[1].rank)[: request.top_logprobs]
    return told[token].logprob, tuple((one, entry.logprob) for one, entry in ranked)
