"""What happens to a request while it is answered: the one vocabulary of streams and engines.

Frozen values; in order `PromptRead`, `TokenEvent` ..., `Finished`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pillion.core.verdict import Verdict


@dataclass(frozen=True)
class PromptRead:
    """The prompt has been read; always the first event.

    Attributes:
        verdicts: probe name -> verdict of the whole prompt.
        cached_tokens: prompt tokens whose KV and tap values came from the prefix cache.
    """

    verdicts: Mapping[str, Verdict]
    cached_tokens: int = 0


@dataclass(frozen=True)
class TokenEvent:
    """One token of the answer.

    Attributes:
        token_id: the token.
        text: what it completed (may be empty inside a character).
        verdicts: probe name -> running verdict of the answer's tokens *before* this one: a token is
            read in the step after the one that sampled it. Empty at the first token.
        logprob: natural log of its probability under the model, before
            temperature; None if it was not asked for.
        top_logprobs: the likeliest (token id, logprob), best first.
    """

    token_id: int
    text: str
    verdicts: Mapping[str, Verdict]
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Finished:
    """The answer is over; always the last event.

    Attributes:
        reason: `stop` at the model's end token, `length` at the limit.
        verdicts: probe name -> verdict of the answer tokens that were read: all but
            the last sampled one.
    """

    reason: Literal["stop", "length"]
    verdicts: Mapping[str, Verdict]


Event = PromptRead | TokenEvent | Finished
