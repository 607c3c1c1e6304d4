"""An answer of one request, token by token: the loop that streams and the plain engine share.

A pass of the model for each token; what probes say comes with it. Knows neither engines nor HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Backend
from pillion.core import Event, Finished, PromptRead, TokenEvent, Tokens, Verdict
from pillion.runtime.padding import pad_batch
from pillion.runtime.reading import Reading
from pillion.runtime.sampling import LogprobSampler


def answer_events(
    backend: Backend,
    prompt: Tokens,
    max_tokens: int,
    draw: LogprobSampler,
    reading: Reading | None,
    watched: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Generator[Event]:
    """The events of an answer, each with what one pass has brought.

    Args:
        backend: the engine.
        prompt: to be answered, one token or more.
        max_tokens: limit of the answer, 1 or more.
        draw: draws the tokens.
        reading: of the probes, for this answer alone; None without probes.
        watched: a context around each pass, in which the reading is shown it; by default none, and
            the caller shows it the passes.
    """
    if reading:
        reading.expect([prompt], answering=True)
    steps = decode_steps(backend, *pad_batch([prompt]), max_tokens, draw)

    def step() -> tuple[int, dict[str, Verdict]]:
        with watched():
            token = int(next(steps)[0])
        rows = reading.verdicts() if reading else []  # none where no probe reads what has run
        return token, rows[0] if rows else {}

    token, said = step()
    if reading:
        reading.cut()
        reading.stay()  # the model may run other things between two tokens
    yield PromptRead(said)
    text, said, count = Detokenizer(backend), dict[str, Verdict](), 0
    while token not in backend.end_ids:
        count += 1
        last = count == max_tokens
        yield TokenEvent(token, text.add(token, last), said, *draw.logprobs(token))
        if last:
            yield Finished("length", said)
            return
        token, said = step()
    yield Finished("stop", said)


def decode_steps(
    backend: Backend,
    ids: Int[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"],
    max_tokens: int,
    sampler: Callable[[Float[Tensor, "batch vocab"]], Int[Tensor, " batch"]],
) -> Iterator[Int[Tensor, " batch"]]:
    """The main loop: run the prompt, draw a token, run it, draw the next.

    Args:
        backend: the engine.
        ids: prompts, padded on the left.
        mask: which positions hold a token.
        max_tokens: tokens to draw.
        sampler: draws the next token of every row from its logits.

    Yields:
        The next token of every row; the states of the one before it have then been read.
    """
    cache = backend.new_cache()
    logits = backend.forward(ids, mask, cache, logits=True)
    for _ in range(max_tokens):
        assert logits is not None
        token = sampler(logits)
        yield token
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = backend.forward(token[:, None], mask, cache, logits=True)


@runtime_checkable
class Decodes(Protocol):
    """Turns token ids into text: a backend, or a tokenizer alone."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        ...


class Detokenizer:
    """Text of a growing list of tokens, never half a character."""

    def __init__(self, codec: Decodes) -> None:
        self.codec = codec
        self.context: list[int] = []  # of the last text: without it a leading space would go
        self.pending: list[int] = []

    def add(self, token_id: int, last: bool = False) -> str:
        """The text that this token completes; what is left of a character if it is the last."""
        before = self.codec.decode(self.context)
        self.pending.append(token_id)
        text = self.codec.decode([*self.context, *self.pending])
        if len(text) <= len(before) or (text.endswith("\ufffd") and not last):
            return ""
        self.context, self.pending = self.pending, []
        return text[len(before) :]
