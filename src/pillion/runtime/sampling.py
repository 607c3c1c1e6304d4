"""Which token comes next, from the logits of the last position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends.grammar import Matcher
from pillion.core import defaults
from pillion.errors import ConfigError

TINY = torch.finfo(torch.float32).tiny
"""The least temperature that logits can be divided by; there it is as good as 0."""
MIN_REPETITION_PENALTY = 1e-6
"""The least that leaves divided logits finite, and so in the order that they had, in fp32."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the likeliest token; higher is more varied.
        top_p: only the likeliest tokens that together reach this probability are drawn from.
        seed: of the draws.
        min_p: tokens less likely than this share of the likeliest one are not drawn.
        presence_penalty: taken off the logit of every token that the answer holds.
        frequency_penalty: the same, once for each time that it holds it.
        repetition_penalty: logits of tokens that the prompt or the answer holds are divided by it
            where they are positive, and multiplied where they are negative.
        logit_bias: token id and what is added to its logit, before all penalties.
    """

    temperature: float = defaults.TEMPERATURE
    top_p: float = defaults.TOP_P
    seed: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; it must be a number from 0 up.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p is {self.min_p}; it must be from 0 to 1.")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= (got := getattr(self, name)) <= 2:
                raise ConfigError(f"{name} is {got}; it must be from -2 to 2.")
        if not -(2**63) <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; it must fit into 64 bits.")
        if not MIN_REPETITION_PENALTY <= self.repetition_penalty <= 2:
            raise ConfigError(
                f"repetition_penalty is {self.repetition_penalty}; it must be from "
                f"{MIN_REPETITION_PENALTY} to 2, and 1 asks for nothing."
            )
        for token, bias in self.logit_bias:
            if not -100 <= bias <= 100:
                raise ConfigError(
                    f"logit_bias of token {token} is {bias}; it must be from -100 to 100."
                )

    @property
    def shifts(self) -> bool:
        """Whether logits are changed before a token is drawn, which the likeliest depends on."""
        return bool(self.logit_bias) or self._remembers

    @property
    def _remembers(self) -> bool:
        penalties = (self.presence_penalty, self.frequency_penalty, self.repetition_penalty - 1)
        return any(penalties)


class Sampler:
    """Draws tokens; the same seed draws the same.

    Args:
        sampling: how.
        device: of the logits.
        prompt: token ids that stand before what is drawn, for penalties.
        matcher: says what may come next, where the answer must have a form; for a single row.

    Attributes:
        num_drawn: tokens so far, a row.
    """

    def __init__(
        self,
        sampling: Sampling,
        device: torch.device,
        prompt: Sequence[int] = (),
        matcher: Matcher | None = None,
    ) -> None:
        self.sampling, self.prompt, self.num_drawn = sampling, prompt, 0
        self.matcher = matcher
        self.random = torch.Generator(device=device).manual_seed(sampling.seed)
        self._counts: Float[Tensor, "batch vocab"] | None = None
        self._prompted: Bool[Tensor, " vocab"] | None = None

    def __call__(self, logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        """The next token of every row."""
        if self.sampling.shifts:
            logits = self._shifted(logits)
        if self.matcher is not None:
            logits = self.matcher.bar(logits)
        tokens = self._draw(logits)
        self.num_drawn += 1
        if self.matcher is not None:
            self.matcher.take(int(tokens))
        if self._counts is not None:
            self._counts.scatter_add_(1, tokens[:, None], torch.ones_like(self._counts[:, :1]))
        return tokens

    def _shifted(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        """Logits with bias and penalties, in fp32."""
        how, logits = self.sampling, logits.float()
        if how.logit_bias:
            ids, values = zip(*how.logit_bias, strict=True)
            bias = logits.new_zeros(logits.shape[-1])
            bias[list(ids)] = logits.new_tensor(values)
            logits = logits + bias
        if self._counts is None or self._prompted is None:
            self._counts = torch.zeros_like(logits)
            self._prompted = torch.zeros_like(logits[0], dtype=torch.bool)
            self._prompted[list(self.prompt)] = True
        said = self._counts > 0
        if how.repetition_penalty != 1:
            factor = how.repetition_penalty
            known = torch.where(logits > 0, logits / factor, logits * factor)
            logits = torch.where(said | self._prompted, known, logits)
        return logits - how.frequency_penalty * self._counts - how.presence_penalty * said

    def _draw(self, logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        # Less the largest: whatever the temperature, the likeliest token is at 0 and stays finite.
        logits = logits.float() - logits.float().amax(-1, keepdim=True)
        probs = (logits / max(self.sampling.temperature, TINY)).softmax(-1)
        if self.sampling.min_p > 0:
            least = self.sampling.min_p * probs.amax(-1, keepdim=True)
            probs = probs.masked_fill(probs < least, 0)
            probs = probs / probs.sum(-1, keepdim=True)
        if self.sampling.top_p < 1:
            ordered, ids = probs.sort(-1, descending=True)
            # A token stays if those before it have not reached top_p yet: one always stays.
            gone = ordered.cumsum(-1) - ordered >= self.sampling.top_p
            gone[..., 0] = False  # a top_p that float32 takes for 0
            ordered = ordered.masked_fill(gone, 0)
            probs = torch.zeros_like(probs).scatter_(-1, ids, ordered)
        return torch.multinomial(probs, 1, generator=self.random)[:, 0]


class LogprobSampler:
    """Draws tokens, and tells log-probabilities of the last one.

    Args:
        sampling: how.
        device: of the logits.
        top: how many likeliest tokens are told beside it; None: no log-probability is told.
        prompt: token ids that stand before what is drawn.
        matcher: says what may come next; see `Sampler`.
    """

    def __init__(
        self,
        sampling: Sampling,
        device: torch.device,
        top: int | None = None,
        prompt: Sequence[int] = (),
        matcher: Matcher | None = None,
    ) -> None:
        self.sampler, self.top = Sampler(sampling, device, prompt, matcher), top
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
