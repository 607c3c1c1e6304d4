"""An engine that says what a test wrote down: tokens, and the score of one probe after each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pillion.backends import Tool
from pillion.backends.fake import FakeBackend
from pillion.core import Conversation, Template, Tokens, Verdict
from pillion.probe import Artefact
from pillion.runtime import Engine, EngineStats, Event, Finished, PromptRead, Request, TokenEvent
from tiny_models import make_artefact


@dataclass
class ScriptedEngine(Engine):
    """Says `words` one by one, then ends.

    Attributes:
        words: the answer, a token each.
        scores: probability of `yes` after each word; the last one goes on.
        prompt_score: of the prompt; None: no verdict.
        seconds: a token takes.
        submitted: every request that came.
        asked: every conversation that was encoded, and the tools with it.
        closed: ids of those whose events were closed, at their end or before.
    """

    words: Sequence[str] = ("one ", "two ", "three ", "four ", "five ")
    scores: Sequence[float | None] = (0.1,)
    prompt_score: float | None = 0.1
    seconds: float = 0.0
    submitted: list[Request] = field(default_factory=list[Request])
    asked: list[tuple[Conversation, Sequence[Tool]]] = field(default_factory=list[Any])
    closed: list[str] = field(default_factory=list[str])
    abstains: bool = False
    chat_template: str = ""
    hidden: Mapping[str, int] = field(default_factory=dict[str, int])
    raises: Exception | None = None

    def __post_init__(self) -> None:
        self.backend, self.codec = FakeBackend(), self
        self.identity, self.end_ids = self.backend.identity, self.backend.end_ids
        self.vocab_size = self.backend.vocab_size
        self.riding = {"p": make_artefact("p", self.identity)}

    @property
    def probes(self) -> Mapping[str, Artefact]:
        return self.riding

    def encode(self, text: str, template: Template) -> Tokens:
        return self.backend.encode(text, template)

    def hidden_id(self, mark: str) -> int | None:
        return self.hidden.get(mark)

    def encode_chat(self, turns: Conversation, tools: Sequence[Tool] = ()) -> Tokens:
        self.asked.append((turns, tools))
        return self.backend.encode_chat(turns)

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.words[i] for i in token_ids)

    async def start(self) -> None:
        pass

    def check_grammar(self, grammar: str) -> None:
        self.backend.matcher(grammar)

    def verdicts(self, score: float | None) -> dict[str, Verdict]:
        if score is None:
            return {}
        label = "yes" if score >= 0.5 else "no"
        probs = {"no": 1 - score, "yes": score}
        abstained = 0.4 <= score < 0.6 if self.abstains else None
        return {"p": Verdict("p", label, probs, 0.5, (label,), abstained)}

    def after(self, num_tokens: int) -> dict[str, Verdict]:
        """Verdicts of the first tokens of the answer."""
        if num_tokens == 0:
            return {}
        return self.verdicts(self.scores[min(num_tokens, len(self.scores)) - 1])

    async def submit(self, request: Request) -> AsyncGenerator[Event]:
        self.submitted.append(request)
        try:
            await asyncio.sleep(self.seconds)
            if self.raises is not None:
                raise self.raises
            yield PromptRead(self.verdicts(self.prompt_score), cached_tokens=2)
            said = min(len(self.words), request.max_tokens)
            for i, word in enumerate(self.words[:said]):
                await asyncio.sleep(self.seconds)
                logs: Any = (-0.5, ((i, -0.5), (0, -2.0))) if request.top_logprobs else ()
                yield TokenEvent(i, word, self.after(i), *logs)
            if said == request.max_tokens:
                yield Finished("length", self.after(said - 1))
            else:
                yield Finished("stop", self.after(said))
        finally:
            self.closed.append(request.id)

    async def _classify(
        self, rows: Sequence[Sequence[int]], artefacts: Sequence[Artefact], owner: str
    ) -> list[dict[str, Verdict]]:
        await asyncio.sleep(self.seconds)
        return [self.verdicts(self.prompt_score) for _ in rows]

    async def set_probes(self, probes: Sequence[Artefact]) -> None:
        self.riding = {probe.name: probe for probe in probes}

    def stats(self) -> EngineStats:
        running = len(self.submitted) - len(self.closed)
        return EngineStats(running=running, generated_tokens=7)

    async def close(self) -> None:
        pass
