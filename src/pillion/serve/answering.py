"""One answer from the engine's events: policies followed, tokens held back, stop strings found.

Yields parts of a choice; does not know how they look on the wire.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pillion.core import Scope, Verdict, absences
from pillion.errors import PillionError
from pillion.policies import JudgeReply, Policy, PolicyOutcome, decide, fails_closed, hold_back
from pillion.runtime import Event, Finished, PromptRead, Request, Sampling, TokenEvent
from pillion.serve.answers import (
    ChoiceDelta,
    ChoiceEnd,
    ChoicePart,
    ChoiceStart,
    decided_verdicts,
    prompt_verdicts,
)
from pillion.serve.refusal import Refused, refusal_of
from pillion.serve.request_context import RequestContext
from pillion.serve.service import Service
from pillion.serve.stops import StopFinder
from pillion.serve.verdict_selection import VerdictSelection


@dataclass(frozen=True)
class AnswerRequest:
    """One answer to generate.

    Attributes:
        token_ids: the prompt.
        text: the same, for judges.
        max_tokens: of the answer.
        sampling: how tokens are drawn.
        stops: strings that end the answer.
        top_logprobs: likeliest tokens to report; None: no logprobs.
        cache_key: by which the caller splits its cached prefixes.
        selection: which verdicts the client gets.
        grammar: that the answer must follow; empty for none.
        marks: tokens that decoding leaves out -> the text that they stand for.
    """

    token_ids: tuple[int, ...]
    text: str
    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    cache_key: str | None = None
    selection: VerdictSelection = field(default_factory=VerdictSelection)
    grammar: str = ""
    marks: Mapping[int, str] = field(default_factory=dict[int, str])


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt that was read and judged.

    Attributes:
        ask: the answer to generate.
        events: the tokens to come; closed if there is something to act on.
        read: the engine's event.
        act: the policy to follow; None: answer.
        told: its verdicts and decisions, as JSON; see `prompt_verdicts`.
        multilabel: probes whose label is a list, among those that the request began with.
    """

    ask: AnswerRequest
    events: AsyncGenerator[Event]
    read: PromptRead
    act: Policy | None
    told: dict[str, Any]
    multilabel: frozenset[str]

    @property
    def refusal(self) -> str | None:
        """The text that is sent in place of an answer; None where the model answers."""
        return None if self.act is None else self.act.refused


async def open_prompt(
    service: Service,
    context: RequestContext,
    ask: AnswerRequest,
    stack: AsyncExitStack,
    number: int,
) -> JudgedPrompt:
    """Reads a prompt, and decides by the policies what to do about it.

    Args:
        service: the server.
        context: the request that it belongs to.
        ask: the answer to generate.
        stack: closes the engine's events, however the request ends.
        number: of the choice, for the engine's id.

    Raises:
        Refused: the prompt does not fit, too many wait, or time is over.
    """
    # Probes may be swapped while the request is on its way; it keeps those that it began with.
    probes = service.engine.probes
    multilabel, events = service.multilabel, _submit(service, context, ask, number)
    stack.push_async_callback(events.aclose)
    with service.queue() as begin:
        read = await _next(events, context)
    assert isinstance(read, PromptRead)
    begin()
    context.account.spend(len(ask.token_ids))
    service.metrics.count_verdicts("prompt", read.verdicts)
    deciding = PolicyDecision(service, "prompt")
    outcome = await deciding.decide(read.verdicts, ask.text)
    if outcome.act is not None:
        await events.aclose()
    scopes: dict[str, Scope] = {name: probe.card.scope for name, probe in probes.items()}
    missing = absences(scopes, read.verdicts, ask.token_ids)
    context.note("prompt", decided_verdicts(read.verdicts, outcome.decisions, multilabel, missing))
    selection = ask.selection
    told = decided_verdicts(
        selection.of(read.verdicts), outcome.decisions, multilabel, selection.some(missing)
    )
    of_tools = {name for name, scope in scopes.items() if scope == "tool"}
    return JudgedPrompt(ask, events, read, outcome.act, prompt_verdicts(told, of_tools), multilabel)


async def answer(
    service: Service, context: RequestContext, prompt: JudgedPrompt
) -> AsyncGenerator[ChoicePart]:
    """The parts of an answer, to a prompt that was read."""
    yield ChoiceStart(prompt.told)
    if prompt.refusal is not None:
        yield ChoiceDelta(prompt.refusal, {}, 0)
        yield ChoiceEnd("content_filter", {}, 0, 0)
        return
    async for part in _stream(service, context, prompt):
        yield part


async def answer_again(
    service: Service, context: RequestContext, prompt: JudgedPrompt, ask: AnswerRequest, number: int
) -> AsyncGenerator[ChoicePart]:
    """Another answer to the same prompt, decided as it was."""
    async with aclosing(_submit(service, context, ask, number)) as events:
        if prompt.refusal is None:
            await _next(events, context)  # the same prompt: its verdicts are known
        async for part in answer(service, context, replace(prompt, ask=ask, events=events)):
            yield part


class PolicyDecision:
    """What is decided about one text: policies, judges, and what a dry run would have done.

    Args:
        service: the server.
        part: which policies count.
    """

    def __init__(self, service: Service, part: Literal["prompt", "response"]) -> None:
        self.service, self.part = service, part
        self.policies = service.policies.of(part)
        self._answers: dict[Policy, JudgeReply] = {}
        self._told: set[Policy] = set()

    async def decide(
        self, verdicts: Mapping[str, Verdict], text: str, num_tokens: int | None = None
    ) -> PolicyOutcome:
        """The outcome, after asking the judges that it needs; a dry run acts on nothing."""
        while True:
            outcome = decide(self.policies, verdicts, self._answers, num_tokens)
            if outcome.ask is None:
                break
            self._answers[outcome.ask] = await self._judge(outcome.ask, verdicts, text)
        if outcome.act is not None:
            self._log_act(outcome.act, verdicts)
        return replace(outcome, act=None) if self.service.settings.dry_run else outcome

    async def _judge(
        self, policy: Policy, verdicts: Mapping[str, Verdict], text: str
    ) -> JudgeReply:
        if self.service.settings.dry_run:
            self._log_act(policy, verdicts)
            return "no"
        verdict = verdicts.get(policy.probe)
        if verdict is None or policy.server is None:
            return "failed"
        said = await self.service.upstreams.ask(policy.server, policy.label_of(verdict), text)
        self.service.metrics.judged.labels(policy.server, said).inc()
        return said

    def _log_act(self, policy: Policy, verdicts: Mapping[str, Verdict]) -> None:
        """Counts and logs, once a text, that a policy acts."""
        if policy in self._told:
            return
        self._told.add(policy)
        dry_run = self.service.settings.dry_run
        self.service.metrics.actions.labels(policy.probe, policy.action, str(dry_run).lower()).inc()
        verdict = verdicts.get(policy.probe)
        self.service.log(
            "policy",
            action=policy.action,
            probe=policy.probe,
            part=self.part,
            label=verdict and verdict.label,
            probs=verdict and {k: round(p, 4) for k, p in verdict.probs.items()},
            dry_run=dry_run,
        )


class _OutputBuffer:
    """An answer's text on its way out: stop strings are found, tokens wait for those after them.

    Args:
        stops: strings that end the answer.
        hold: how many tokens wait.
        marks: of the `AnswerRequest`.

    Attributes:
        num_tokens: of the answer so far.
        text: of all of them.
    """

    def __init__(self, stops: tuple[str, ...], hold: int, marks: Mapping[int, str]) -> None:
        self.num_tokens, self.text, self.hold, self.marks = 0, "", hold, marks
        self._finder = StopFinder(stops)
        self._went = 0
        self._unsent: deque[tuple[int, TokenEvent]] = deque()
        self._held: deque[ChoiceDelta] = deque()

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met."""
        return self._finder.found

    def add(self, token: TokenEvent, told: dict[str, Any]) -> Iterator[ChoiceDelta]:
        """Takes a token, and gives what has waited long enough."""
        text = self.marks.get(token.token_id, "") + token.text
        self.text += text
        self._unsent.append((len(self.text), token))
        self._held.append(self._piece(self._finder.add(text), told))
        self.num_tokens += 1
        while len(self._held) > self.hold:
            yield self._held.popleft()

    def drop(self) -> None:
        """Drops everything that waits."""
        self._held.clear()

    def drop_last(self) -> None:
        """Drops the last token and what was held back as the beginning of a stop string."""
        self._held.pop()
        self._finder.found = True

    def end(self, told: dict[str, Any]) -> Iterator[ChoiceDelta]:
        """Yields everything that waits."""
        yield from self._held
        last = self._piece(self._finder.flush(), told)
        if last.text:
            yield last

    def _piece(self, text: str, told: dict[str, Any]) -> ChoiceDelta:
        self._went += len(text)
        tokens: list[TokenEvent] = []
        while self._unsent and self._unsent[0][0] <= self._went:
            tokens.append(self._unsent.popleft()[1])
        return ChoiceDelta(text, told, self.num_tokens, tuple(tokens))


async def _stream(
    service: Service, context: RequestContext, prompt: JudgedPrompt
) -> AsyncGenerator[ChoicePart]:
    """The main loop of an answer: judge what was read, take the new token, let old ones go."""
    ask, deciding = prompt.ask, PolicyDecision(service, "response")
    hold = 0 if service.settings.dry_run else hold_back(deciding.policies)
    buffer = _OutputBuffer(ask.stops, hold, ask.marks)
    clock = _Clock(service, context)
    async with aclosing(prompt.events):
        while True:
            event = await _next(prompt.events, context)
            if isinstance(event, TokenEvent) and event.token_id in service.engine.end_ids:
                continue
            assert not isinstance(event, PromptRead)
            unread = isinstance(event, Finished) and event.reason == "length"
            num_read = buffer.num_tokens - unread
            outcome = await deciding.decide(event.verdicts, buffer.text, num_read)
            told = decided_verdicts(
                ask.selection.of(event.verdicts), outcome.decisions, prompt.multilabel
            )
            if outcome.act is not None:
                reason = "content_filter"
                buffer.drop()
                break
            full = buffer.num_tokens == ask.max_tokens
            if isinstance(event, Finished) or buffer.stopped or full:
                reason = "stop" if buffer.stopped or not full else "length"
                if unread and buffer.hold and fails_closed(deciding.policies):
                    buffer.drop_last()
                break
            clock.token()
            for piece in buffer.add(event, told):
                yield piece
            if buffer.stopped and not buffer.hold:
                reason = "stop"
                break
    if reason != "content_filter":
        for piece in buffer.end(told):
            yield piece
    service.metrics.count_verdicts("response", event.verdicts)
    context.note("response", decided_verdicts(event.verdicts, outcome.decisions, prompt.multilabel))
    yield ChoiceEnd(reason, told, num_read, buffer.num_tokens)


class _Clock:
    """Times the tokens of one answer."""

    def __init__(self, service: Service, context: RequestContext) -> None:
        self.metrics, self.context = service.metrics, context
        self.last: float | None = None

    def token(self) -> None:
        now = time.perf_counter()
        self.context.account.spend(1)
        if self.last is None:
            first = now - self.context.began
            self.metrics.first_token_seconds.observe(first)
            self.context.facts.setdefault("first_token_seconds", round(first, 4))
        else:
            self.metrics.token_gap_seconds.observe(now - self.last)
        self.last = now


def _submit(
    service: Service, context: RequestContext, ask: AnswerRequest, number: int
) -> AsyncGenerator[Event]:
    """Hands a request to the engine, with one token more if the last one has to be read."""
    policies = service.policies.of("response")
    room = service.engine.window_tokens - len(ask.token_ids)
    more = hold_back(policies) > 0 and not service.settings.dry_run and ask.max_tokens < room
    request = Request(
        f"{context.id}-{number}",
        ask.token_ids,
        ask.max_tokens + more,
        ask.sampling,
        ask.top_logprobs,
        service.salt(context, ask.cache_key),
        ask.grammar,
    )
    return service.engine.submit(request)


async def _next(events: AsyncGenerator[Event], context: RequestContext) -> Event:
    """The engine's next event.

    Raises:
        Refused: time is over, or the engine refuses or fails.
    """
    try:
        async with asyncio.timeout(context.seconds_left):
            return await anext(events)
    except TimeoutError as error:
        raise Refused(504, "The answer took too long; ask for less.", "timeout") from error
    except PillionError as error:
        raise refusal_of(error) from error
