"""Which token comes next, from the logits of the last position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.errors import ConfigError

TINY = torch.finfo(torch.float32).tiny
"""The least temperature that logits can be divided by; there it is as good as 0."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the likeliest token; higher is more varied.
        top_p: only the likeliest tokens that together reach this probability are drawn from.
        seed: of the draws.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; it must be a number from 0 up.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")


class Sampler:
    """Draws tokens; the same seed draws the same."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.sampling = sampling
        self.random = torch.Generator(device=device).manual_seed(sampling.seed)

    def __call__(self, logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        """The next token of every row."""
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        # Less the largest: whatever the temperature, the likeliest token is at 0 and stays finite.
        logits = logits.float() - logits.float().amax(-1, keepdim=True)
        probs = (logits / max(self.sampling.temperature, TINY)).softmax(-1)
        if self.sampling.top_p < 1:
            ordered, ids = probs.sort(-1, descending=True)
            # A token stays if those before it have not reached top_p yet: one always stays.
            gone = ordered.cumsum(-1) - ordered >= self.sampling.top_p
            gone[..., 0] = False  # a top_p that float32 takes for 0
            ordered = ordered.masked_fill(gone, 0)
            probs = torch.zeros_like(probs).scatter_(-1, ids, ordered)
        return torch.multinomial(probs, 1, generator=self.random)[:, 0]


class Draw:
    """Draws tokens, and tells log-probabilities of the last one.

    Args:
        sampling: how.
        device: of the logits.
        top: how many likeliest tokens are told beside it; None: no log-probability is told.
    """

    def __init__(self, sampling: Sampling, device: torch.device, top: int | None = None) -> None:
        self.sampler, self.top = Sampler(sampling, device), top
        self._last: Float[Tensor, "batch vocab"] | None = None

    def __call__(self, logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        """The next token of every row."""
        self._last = logits
        return self.sampler(logits)

    def logprobs(self, token: int) -> tuple[float | None, tuple[tuple[int, float], ...]]:
        """Log-probability of a token of the first row, and the likeliest ones, best first."""
        if self.top is None or self._last is None:
            return None, ()
        logs = self._last[0].float().log_softmax(-1)
        best = logs.topk(min(self.top, len(logs)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return float(logs[token]), tuple(pairs)
