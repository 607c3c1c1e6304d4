"""What a batching engine shows of a step: which tokens run, and where they lie in its KV cache.

The paged counterpart of `Step` and `Watcher`: many requests share a step and one cache of slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from pillion.core import defaults
from pillion.errors import ConfigError

LEAST = {"page_tokens": 4}
"""Least sizes that are more than 1."""


@dataclass(frozen=True)
class PagedSettings:
    """How much an engine holds and does at once.

    Attributes:
        page_tokens: tokens a page; prefixes are shared in whole pages.
        cache_tokens: tokens of all requests and cached prefixes together.
        max_chunk_tokens: tokens of a step: longer prompts are read in chunks.
        max_requests: requests of a step.

    Raises:
        ConfigError: a size that is too small.
    """

    page_tokens: int = 16
    cache_tokens: int = defaults.CACHE_TOKENS
    max_chunk_tokens: int = 512
    max_requests: int = defaults.REQUESTS

    def __post_init__(self) -> None:
        for one in fields(self):
            least, got = LEAST.get(one.name, 1), getattr(self, one.name)
            if got < least:
                raise ConfigError(f"{one.name} is {got}; it must be {least} or more.")


@dataclass(frozen=True)
class Chunk:
    """The tokens of one request in a step.

    Attributes:
        request: its id.
        start: position of the first in the request.
        num_tokens: how many.
        first: place of the first in the step.
        draws: whether the step draws the token that follows; if not, the prompt goes on.
    """

    request: str
    start: int
    num_tokens: int
    first: int
    draws: bool

    @property
    def end(self) -> int:
        """Tokens of the request that have run when the step is over."""
        return self.start + self.num_tokens


@dataclass(frozen=True)
class PagedStep:
    """One forward pass over the chunks of many requests, one after the other.

    Attributes:
        chunks: in the order of their tokens.
        slots: where in the cache each token lies.
        history: of a chunk's index, the slots of all tokens of its request so far.
        ids: the tokens, one after the other.
    """

    chunks: tuple[Chunk, ...]
    slots: Int[Tensor, " token"]
    history: Callable[[int], Int[Tensor, " past"]]
    ids: Int[Tensor, " token"]


@runtime_checkable
class PagedWatcher(Protocol):
    """An observer of hidden states while a batching engine runs."""

    @property
    def layers(self) -> tuple[int, ...]:
        """What it wants to see, ascending."""
        ...

    def start(self, step: PagedStep) -> None:
        """A step of the engine begins: which tokens of which requests it runs."""
        ...

    def see(self, layer: int, hidden: Float[Tensor, "1 token dim"]) -> None:
        """The residual stream after the first `layer` blocks. Not to be changed."""
        ...

    def end(self) -> None:
        """The blocks are through; tokens are drawn next."""
        ...


@runtime_checkable
class TokenSampler(Protocol):
    """Picks the tokens of one request, one after the other.

    Attributes:
        num_drawn: so far.
    """

    num_drawn: int

    def __call__(self, logits: Float[Tensor, "1 vocab"]) -> Int[Tensor, 1]:
        """The next token, from the logits behind the one before."""
        ...


@dataclass(frozen=True)
class EngineRequest:
    """What an engine must know of a request.

    Attributes:
        request: an id that was never used before.
        token_ids: the prompt.
        max_tokens: limit of the answer.
        draw: picks a token from logits of shape [1, vocab]; None takes the likeliest.
        top_logprobs: likeliest tokens to report beside each drawn one; None: no logprobs.
        salt: cached prefixes are shared among requests of the same salt only.
    """

    request: str
    token_ids: tuple[int, ...]
    max_tokens: int
    draw: TokenSampler | None = None
    top_logprobs: int | None = None
    salt: str = ""


@dataclass(frozen=True)
class SampledToken:
    """A token that a step drew for a request, or the failure that ended it.

    Attributes:
        request: its id.
        token_id: the token; an end token too.
        finished: why the answer is over; None if it goes on.
        failure: what went wrong; the request is over.
        logprob: natural log of the token's probability, before temperature.
        top_logprobs: the likeliest (token id, logprob), best first.
    """

    request: str
    token_id: int = -1
    finished: Literal["stop", "length"] | None = None
    failure: str | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
