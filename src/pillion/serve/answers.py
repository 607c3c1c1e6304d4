"""What clients get: OpenAI's bodies and chunks, with verdicts. Pure functions of values.

Does not know where texts and verdicts come from, nor how they are sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from pillion.core import Verdict, verdicts_json
from pillion.policies import ALLOW
from pillion.runtime import TokenEvent
from pillion.serve.tool_calls import ToolCall

Decode = Callable[[Sequence[int]], str]
Json = dict[str, Any]


@dataclass(frozen=True)
class ChoiceStart:
    """A choice begins; its prompt was read.

    Attributes:
        verdicts: from `prompt_verdicts`.
    """

    verdicts: Json


@dataclass(frozen=True)
class ChoiceDelta:
    """A piece of a choice's text.

    Attributes:
        text: may be empty.
        verdicts: on the answer so far, as JSON.
        num_read: tokens of the answer that they cover.
        tokens: those that the text completed.
        calls: of tools, that are whole now.
    """

    text: str
    verdicts: Json
    num_read: int
    tokens: tuple[TokenEvent, ...] = ()
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class ChoiceEnd:
    """A choice is over.

    Attributes:
        reason: `stop`, `length`, `tool_calls` or `content_filter`.
        verdicts: on the whole answer, as JSON.
        num_read: tokens of the answer that they cover.
        num_tokens: of the answer.
    """

    reason: str
    verdicts: Json
    num_read: int
    num_tokens: int


ChoicePart = ChoiceStart | ChoiceDelta | ChoiceEnd


@dataclass
class Choice:
    """One answer, gathered from its parts."""

    prompt: Json = field(default_factory=dict[str, Any])
    text: str = ""
    tokens: list[TokenEvent] = field(default_factory=list[TokenEvent])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    end: ChoiceEnd = field(default_factory=lambda: ChoiceEnd("stop", {}, 0, 0))

    @property
    def said(self) -> str:
        """The text and the calls, for logs."""
        return " ".join(filter(None, [self.text, *(f"{c.name} {c.arguments}" for c in self.calls)]))

    def add(self, part: ChoicePart) -> None:
        """Takes the next part."""
        if isinstance(part, ChoiceStart):
            self.prompt = part.verdicts
        elif isinstance(part, ChoiceDelta):
            self.text += part.text
            self.tokens.extend(part.tokens)
            self.calls.extend(part.calls)
        else:
            self.end = part


def decided_verdicts(
    verdicts: Mapping[str, Verdict],
    decisions: Mapping[str, str],
    multilabel: Set[str],
    absences: Mapping[str, str] | None = None,
) -> Json:
    """Probe -> label, probs, threshold, decision; null and a reason where there is no verdict.

    Args:
        verdicts: probe -> verdict.
        decisions: probe -> what the policies make of it.
        multilabel: names of the probes whose label is a list.
        absences: probe -> why it gave none.
    """
    told = verdicts_json(verdicts, multilabel, absences)
    # A probe without a verdict allows, unless a policy waits for it.
    decided = {**dict.fromkeys(absences or (), ALLOW), **decisions}
    return {name: said | {"decision": decided[name]} for name, said in told.items()}


def prompt_verdicts(told: Json, tools: Set[str]) -> Json:
    """Verdicts on a prompt: `prompt`, and `tool` for probes that read the turns of tools.

    Args:
        told: from `decided_verdicts`.
        tools: names of the probes that read what tools have said.
    """
    parts: Json = {"prompt": {name: one for name, one in told.items() if name not in tools}}
    if tools:
        parts["tool"] = {name: one for name, one in told.items() if name in tools}
    return parts


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Json:
    """OpenAI's `usage` object, in tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def calls_json(calls: Sequence[ToolCall]) -> list[Json]:
    """OpenAI's list of calls."""
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]


class AnswerShape(ABC):
    """How an answer looks on the wire.

    Args:
        dry_run: whether the decisions beside the verdicts were only written down.
    """

    def __init__(self, dry_run: bool) -> None:
        self._notes: Json = {"dry_run": True} if dry_run else {}

    def verdicts(self, prompt: Json, end: ChoiceEnd | None = None) -> Json:
        """The `verdicts` object of a prompt (`prompt`, and `tool` if there is one) and response.

        `response_tokens` says how many tokens of the response its verdicts cover.
        """
        response, num_read = (end.verdicts, end.num_read) if end else ({}, 0)
        told = {"response": response, "response_tokens": num_read}
        return {"prompt": {}} | prompt | told | self._notes

    @abstractmethod
    def body(self, choices: Sequence[Choice], used: Json) -> Json:
        """The JSON body of a whole answer."""

    @abstractmethod
    def events(self, index: int, part: ChoicePart, prompt: Json) -> list[Json]:
        """One part of a choice, as events of a stream.

        Args:
            index: of the choice.
            part: what came.
            prompt: the verdicts on the prompt, told once more at the end.
        """

    @abstractmethod
    def ending(self, choices: Sequence[Choice], used: Json, include_usage: bool) -> list[Json]:
        """The events behind the last part of all choices."""


class ChoiceShape(AnswerShape):
    """An answer with a list of choices, and a stream of chunks that stand alone.

    Args:
        id: of the answer, without its prefix.
        model: as the client called it.
        created: seconds since 1970.
        decode: token ids to text.
        logprobs: whether they were asked for.
        dry_run: whether the decisions beside the verdicts were only written down.
    """

    prefix: str
    whole: str
    chunk: str

    def __init__(
        self,
        id: str,
        model: str,
        created: int,
        decode: Decode,
        logprobs: bool = False,
        dry_run: bool = False,
    ) -> None:
        super().__init__(dry_run)
        self.head = {"id": f"{self.prefix}-{id}", "created": created, "model": model}
        self.decode, self.logprobs = decode, logprobs
        self._offsets: dict[int, int] = {}

    def body(self, choices: Sequence[Choice], used: Json) -> Json:
        """A whole answer; with several choices each has verdicts of its own as well."""
        entries = [self._entry(i, choice) for i, choice in enumerate(choices)]
        if len(choices) > 1:
            for entry, choice in zip(entries, choices, strict=True):
                entry["verdicts"] = self.verdicts(choice.prompt, choice.end)
        first = self.verdicts(choices[0].prompt, choices[0].end)
        rest = {"choices": entries, "usage": used, "verdicts": first}
        return {**self.head, "object": self.whole, **rest}

    def event(self, index: int, part: ChoicePart, prompt: Json) -> Json:
        """One part of a choice, as a chunk of a stream.

        Args:
            index: of the choice.
            part: what came.
            prompt: the verdicts on the prompt, told once more at the end.
        """
        reason = part.reason if isinstance(part, ChoiceEnd) else None
        entry = {"index": index, **self._delta(index, part), "finish_reason": reason}
        if isinstance(part, ChoiceDelta):
            verdicts = {"response": part.verdicts, "response_tokens": part.num_read}
        else:
            verdicts = self.verdicts(prompt, part if isinstance(part, ChoiceEnd) else None)
        return {**self.head, "object": self.chunk, "choices": [entry], "verdicts": verdicts}

    def events(self, index: int, part: ChoicePart, prompt: Json) -> list[Json]:
        """One part of a choice, as chunks of a stream; see `event`."""
        return [self.event(index, part, prompt)]

    def ending(self, choices: Sequence[Choice], used: Json, include_usage: bool) -> list[Json]:
        """The chunk with the usage and no choice, if it is wanted."""
        chunk = {**self.head, "object": self.chunk, "choices": [], "usage": used}
        return [chunk] if include_usage else []

    @abstractmethod
    def _entry(self, index: int, choice: Choice) -> Json: ...

    @abstractmethod
    def _delta(self, index: int, part: ChoicePart) -> Json: ...


class ChatShape(ChoiceShape):
    """Of `/v1/chat/completions`."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _entry(self, index: int, choice: Choice) -> Json:
        message: Json = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": calls_json(choice.calls)}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logs(choice.tokens),
            "finish_reason": choice.end.reason,
        }

    def _delta(self, index: int, part: ChoicePart) -> Json:
        if isinstance(part, ChoiceStart):
            return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}
        if isinstance(part, ChoiceDelta):
            delta: Json = {"content": part.text} if part.text or not part.calls else {}
            if part.calls:
                calls = zip(part.calls, calls_json(part.calls), strict=True)
                delta["tool_calls"] = [{"index": call.number, **told} for call, told in calls]
            return {"delta": delta, "logprobs": self._logs(part.tokens)}
        return {"delta": {}, "logprobs": None}

    def _logs(self, tokens: Sequence[TokenEvent]) -> Json | None:
        if not self.logprobs:
            return None
        content = [
            self._log(token.token_id, token.logprob or 0.0)
            | {"top_logprobs": [self._log(*pair) for pair in token.top_logprobs]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _log(self, token_id: int, logprob: float) -> Json:
        text = self.decode([token_id])
        # A part of a character has no text of its own, and its bytes are the tokenizer's secret.
        own = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": own}


class CompletionShape(ChoiceShape):
    """Of `/v1/completions`."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def _entry(self, index: int, choice: Choice) -> Json:
        return {
            "index": index,
            "text": choice.text,
            "logprobs": self._logs(index, choice.tokens),
            "finish_reason": choice.end.reason,
        }

    def _delta(self, index: int, part: ChoicePart) -> Json:
        if isinstance(part, ChoiceDelta):
            return {"text": part.text, "logprobs": self._logs(index, part.tokens)}
        return {"text": "", "logprobs": None}

    def _logs(self, index: int, tokens: Sequence[TokenEvent]) -> Json | None:
        if not self.logprobs:
            return None
        texts = [self.decode([token.token_id]) for token in tokens]
        # Offsets go on from those of the choice's last piece.
        *offsets, end = accumulate(map(len, texts), initial=self._offsets.get(index, 0))
        self._offsets[index] = end
        tops = [{self.decode([i]): log for i, log in token.top_logprobs} for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }
