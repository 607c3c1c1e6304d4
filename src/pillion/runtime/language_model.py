"""A language model with probes riding along: score texts, or generate with verdicts.

Joins a backend and probes: one pass gives the prompt's verdicts, the first token and everything
after it. Knows no engine's insides and no HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import EMBEDDED, Backend, load_backend
from pillion.core import OnTooLong, Scope, Template, Text, TokenEvent, Tokens, Verdict, as_tokens
from pillion.core.batching import batches_by_length
from pillion.errors import ConfigError, DataError
from pillion.runtime.attach import ProbeLike, resolve, watch
from pillion.runtime.encoding import encode_rows
from pillion.runtime.padding import pad_batch
from pillion.runtime.reading import Reading
from pillion.runtime.sampling import Sampler, Sampling

BATCH_TOKENS = 4096
"""Padded tokens of a scoring batch: large enough to keep a processor busy, small in memory."""


@dataclass(frozen=True)
class Generation:
    """An answer with what the probes said of it.

    Attributes:
        text: the answer.
        token_ids: its tokens, without the end token.
        prompt: probe name -> verdict of the prompt, known before the first token; of the probes
            whose scope the prompt holds.
        response: probe name -> verdict of the answer's tokens that were read: all but the last
            sampled one, which never runs through the model. Empty for an answer of one token.
        finish_reason: `stop` at the model's end token, `length` at the limit.
        seconds: `first_token` (from the call) and `total`.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt: Mapping[str, Verdict]
    response: Mapping[str, Verdict]
    finish_reason: str
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])


class Stream(Iterator[TokenEvent]):
    """An answer on its way: iterate for tokens; `prompt` is there before the first one.

    Attributes:
        prompt: probe name -> verdict of the prompt.
        result: the whole `Generation`, once the stream is at its end.
    """

    def __init__(self, events: Generator[TokenEvent, None, Generation]) -> None:
        self._events = events
        self.prompt: Mapping[str, Verdict] = {}
        self.result: Generation | None = None
        first = next(events)  # runs the prompt; its event carries the prompt's verdicts
        self.prompt = first.verdicts

    def __next__(self) -> TokenEvent:
        """The next token.

        Raises:
            StopIteration: at the end; `result` is then set.
        """
        try:
            return next(self._events)
        except StopIteration as stop:
            if self.result is None:
                self.result = stop.value
            raise StopIteration from None

    def close(self) -> None:
        """Ends the stream early and detaches the probes."""
        self._events.close()


class LanguageModel:
    """A causal language model whose passes can be read by probes.

    Args:
        backend: the engine; `LanguageModel.load` makes one by name.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @classmethod
    def load(
        cls, model: str = EMBEDDED, dtype: str = "auto", device: str = "auto"
    ) -> LanguageModel:
        """A model by name, folder or hub name; the embedded one by default.

        Raises:
            ConfigError: if it cannot be loaded, saying why and what to do.
        """
        return cls(load_backend(model, dtype, device))

    def score(
        self,
        texts: Sequence[Text],
        probes: Sequence[ProbeLike],
        template: Template | None = None,
        on_too_long: OnTooLong = "error",
        progress: Callable[[int, int], None] | None = None,
        allow_mismatch: bool = False,
    ) -> list[dict[str, Verdict]]:
        """Verdicts of every probe for every text, in input order, in one pass a text.

        Args:
            texts: texts or conversations, one or more.
            probes: artefacts or folders; each reads the turns of its scope.
            template: how texts are wrapped; None: as the first probe was trained.
            on_too_long: what happens to a text beyond the context window.
            progress: called with the tokens done so far, and all of them.
            allow_mismatch: only warn of probes trained on other weights or another template.

        Raises:
            ConfigError: if no probe is given.
            DataError: for a text that is empty, too long, or without a turn of a probe's scope.
            MismatchError: if a probe belongs to another model.
            StateError: if a hidden state is not finite.
        """
        artefacts = [resolve(p) for p in probes]
        if not artefacts:
            raise ConfigError("Got no probe to score with; give one or more.")
        how: Template = template or artefacts[0].card.template
        scopes: list[Scope] = [artefact.card.scope for artefact in artefacts]
        rows = encode_rows(self.backend, texts, how, on_too_long, scopes=scopes)
        return self.score_rows(rows, artefacts, progress, allow_mismatch)

    def score_rows(
        self,
        rows: Sequence[Sequence[int]],
        probes: Sequence[ProbeLike],
        progress: Callable[[int, int], None] | None = None,
        allow_mismatch: bool = False,
    ) -> list[dict[str, Verdict]]:
        """Verdicts of every probe for every row of tokens; see `score`.

        A row without words of a probe's scope gets no verdict of that probe.

        Args:
            rows: `Tokens`, or plain token ids where probes read all of them; one or more each.
            probes: artefacts or folders, one or more.
            progress: called with the tokens done so far, and all of them.
            allow_mismatch: only warn of probes trained on other weights or another template.
        """
        out: list[dict[str, Verdict]] = [{} for _ in rows]
        total, done = sum(map(len, rows)), 0
        with watch(self.backend, probes, allow_mismatch) as reading:
            for batch in score_batches([len(row) for row in rows]):
                some = [as_tokens(rows[i]) for i in batch]
                ids, mask = pad_batch(some)
                reading.expect(some)
                self.backend.forward(ids, mask)
                for row, verdicts in zip(batch, reading.verdicts(), strict=True):
                    out[row] = verdicts
                done += int(mask.sum())
                if progress:
                    progress(done, total)
        return out

    def generate(
        self,
        prompt: Text,
        probes: Sequence[ProbeLike] = (),
        max_tokens: int = 128,
        sampling: Sampling | None = None,
        template: Template = "chat",
    ) -> Generation:
        """The model's answer to a prompt, with verdicts of both; see `stream`."""
        stream = self.stream(prompt, probes, max_tokens, sampling, template)
        for _ in stream:
            pass
        assert stream.result is not None
        return stream.result

    def stream(
        self,
        prompt: Text,
        probes: Sequence[ProbeLike] = (),
        max_tokens: int = 128,
        sampling: Sampling | None = None,
        template: Template = "chat",
        allow_mismatch: bool = False,
    ) -> Stream:
        """Answers token by token; when this returns, the prompt's verdicts are known.

        Args:
            prompt: what the user says, or a conversation that ends before the answer.
            probes: artefacts or folders, all read in the same passes.
            max_tokens: limit of the answer.
            sampling: how tokens are drawn; None takes the likeliest.
            template: `chat` wraps the prompt as a user's turn.
            allow_mismatch: only warn of probes trained on other weights or another template.

        Raises:
            ConfigError: if `max_tokens` is not at least 1.
            DataError: for an empty prompt, one too long to leave room for the answer, or a
                conversation that ends with an answer.
            MismatchError: if a probe belongs to another model.
        """
        if max_tokens < 1:
            raise ConfigError(f"max_tokens is {max_tokens}; it must be 1 or more.")
        if not isinstance(prompt, str) and prompt and prompt[-1].role == "assistant":
            raise DataError(
                "The conversation ends with an answer; end it with the turn that is to be answered."
            )
        (ids,) = encode_rows(self.backend, [prompt], template, room_tokens=max_tokens)
        sampler = Sampler(sampling or Sampling(), self.backend.device)
        attached = watch(self.backend, probes, allow_mismatch) if probes else None
        return Stream(self._events(ids, attached, max_tokens, sampler))

    def _events(
        self,
        ids: Tokens,
        attached: AbstractContextManager[Reading] | None,
        max_tokens: int,
        sampler: Sampler,
    ) -> Generator[TokenEvent, None, Generation]:
        """First the prompt's verdicts (as an event without a token), then the tokens."""
        begin = time.perf_counter()
        with ExitStack() as stack:
            reading = stack.enter_context(attached) if attached else None
            if reading:
                reading.expect([ids], answering=True)
            steps = decode_steps(self.backend, *pad_batch([ids]), max_tokens, sampler)
            token = int(next(steps)[0])
            prompt = _row(reading.verdicts()) if reading else {}
            if reading:
                reading.cut()
                reading.stay()  # the model may run other things between two tokens
            seconds = {"first_token": time.perf_counter() - begin}
            yield TokenEvent(-1, "", prompt)
            text, done, reason = Detokenizer(self.backend), list[int](), "length"
            verdicts: dict[str, Verdict] = {}
            while True:
                if token in self.backend.end_ids:
                    reason = "stop"
                    break
                done.append(token)
                yield TokenEvent(token, text.add(token, len(done) == max_tokens), verdicts)
                if len(done) == max_tokens:
                    break
                token = int(next(steps)[0])
                verdicts = _row(reading.verdicts()) if reading else {}
        seconds["total"] = time.perf_counter() - begin
        answer = self.backend.decode(done)
        return Generation(answer, tuple(done), prompt, verdicts, reason, seconds)


def score_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Which rows are scored together, by their places; longest first.

    The rows of any of these batches, by themselves or with those of the batches next to it, are cut
    into the same batches again: where a batch is scored does not change its verdicts.
    """
    return batches_by_length(lengths, BATCH_TOKENS)


@runtime_checkable
class Decodes(Protocol):
    """Turns token ids into text: a backend, or a tokenizer alone."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        ...


class Detokenizer:
    """Text of a growing list of tokens, never half a character."""

    def __init__(self, backend: Decodes) -> None:
        self.backend = backend
        self.context: list[int] = []  # of the last text: without it a leading space would go
        self.pending: list[int] = []

    def add(self, token_id: int, last: bool = False) -> str:
        """The text that this token completes; what is left of a character if it is the last."""
        before = self.backend.decode(self.context)
        self.pending.append(token_id)
        text = self.backend.decode([*self.context, *self.pending])
        if len(text) <= len(before) or (text.endswith("\ufffd") and not last):
            return ""
        self.context, self.pending = self.pending, []
        return text[len(before) :]


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


def _row(verdicts: list[dict[str, Verdict]]) -> dict[str, Verdict]:
    return verdicts[0] if verdicts else {}
