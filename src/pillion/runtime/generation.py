"""An answer as it comes, and as a whole. Knows no model."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field

from pillion.core import Event, Finished, PromptRead, Scope, TokenEvent, Tokens, Verdict, absences
from pillion.runtime.decoding import Decodes


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
        absences: probe name -> why it gave no verdict of the prompt; a probe of answers alone is
            not asked for one.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt: Mapping[str, Verdict]
    response: Mapping[str, Verdict]
    finish_reason: str
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    absences: Mapping[str, str] = field(default_factory=dict[str, str])


class Stream(Iterator[TokenEvent]):
    """An answer on its way: iterate for tokens; `prompt` is there before the first one.

    Args:
        events: of the answer; the prompt runs when the stream is made.
        codec: tells the text of all tokens.
        asked: the prompt's tokens.
        scopes: probe name -> what it reads.

    Attributes:
        prompt: probe name -> verdict of the prompt.
        absences: probe name -> why it gave none; see `Generation`.
        result: the whole `Generation`, once the stream is at its end.
    """

    def __init__(
        self, events: Generator[Event], codec: Decodes, asked: Tokens, scopes: Mapping[str, Scope]
    ) -> None:
        self._events, self._codec = events, codec
        self._token_ids: list[int] = []
        self.result: Generation | None = None
        self._begin = time.perf_counter()
        first = next(events)
        assert isinstance(first, PromptRead)
        self.prompt: Mapping[str, Verdict] = first.verdicts
        self.absences: Mapping[str, str] = absences(scopes, first.verdicts, asked)
        self._first_token = time.perf_counter() - self._begin

    def __next__(self) -> TokenEvent:
        """The next token.

        Raises:
            StopIteration: at the end; `result` is then set.
        """
        event = next(self._events)
        if isinstance(event, TokenEvent):
            self._token_ids.append(event.token_id)
            return event
        assert isinstance(event, Finished)
        self._events.close()  # the probes are detached
        seconds = {"first_token": self._first_token, "total": time.perf_counter() - self._begin}
        self.result = Generation(
            self._codec.decode(self._token_ids),
            tuple(self._token_ids),
            self.prompt,
            event.verdicts,
            event.reason,
            seconds,
            self.absences,
        )
        raise StopIteration

    def close(self) -> None:
        """Ends the stream early and detaches the probes."""
        self._events.close()
