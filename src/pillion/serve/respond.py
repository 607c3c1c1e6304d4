"""From a wanted answer to a response: prompts opened, policies followed, whole or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from pillion.policies import Route
from pillion.serve.answering import AnswerRequest, JudgedPrompt, answer, answer_again, open_prompt
from pillion.serve.answers import (
    AnswerShape,
    Choice,
    ChoiceEnd,
    ChoicePart,
    ChoiceShape,
    ChoiceStart,
    Json,
    usage,
)
from pillion.serve.refusal import Refused
from pillion.serve.request_context import RequestContext, context_of
from pillion.serve.service import Service
from pillion.serve.streaming import EventStream, merge, until_gone
from pillion.serve.tools import OfferedTools, with_calls
from pillion.serve.upstream import UpstreamError
from pillion.serve.verdict_selection import verdict_headers


@dataclass(frozen=True)
class AnswerJob:
    """What a request wants.

    Attributes:
        asks: one a prompt.
        n: answers a prompt.
        stream: whether they are sent as they come.
        include_usage: whether a stream ends with the usage.
        path: below `/v1`, for an upstream that answers instead.
        body: as the client sent it, for the same.
        offer: tools that may be called; None for none.
    """

    asks: tuple[AnswerRequest, ...]
    n: int
    stream: bool
    include_usage: bool
    path: str
    body: Mapping[str, Any]
    offer: OfferedTools | None = None


async def respond(
    request: Request, service: Service, job: AnswerJob, shape: AnswerShape
) -> Response:
    """The response to a job.

    Raises:
        Refused: in the place of an answer, as long as nothing was sent.
    """
    context = context_of(request.scope)
    context.texts["prompts"] = [ask.text for ask in job.asks]
    async with AsyncExitStack() as stack:
        prompts = await until_gone(request, _open(service, context, job, stack))
        for prompt in prompts:
            if isinstance(prompt.act, Route):
                work = _route(service, prompt.act, prompts, job, shape, stack)
                response = await until_gone(request, work)
                if response is not None:
                    return response
        choices = _choices(service, context, prompts, job)
        if job.stream:
            chunks = _chunks(context, prompts, choices, job, shape)
            seconds = service.settings.limits.send_seconds
            return EventStream(chunks, stack.pop_all(), seconds)
        done = await until_gone(request, _gather(choices))
        context.texts["answers"] = [choice.said for choice in done]
        used = _usage(context, prompts, [choice.end for choice in done])
        body = shape.body(done, used)
        return JSONResponse(body, headers=verdict_headers(body["verdicts"]))


async def _open(
    service: Service, context: RequestContext, job: AnswerJob, stack: AsyncExitStack
) -> list[JudgedPrompt]:
    """Every prompt, read and decided about."""
    tasks = [
        asyncio.ensure_future(open_prompt(service, context, ask, stack, i * job.n))
        for i, ask in enumerate(job.asks)
    ]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _choices(
    service: Service, context: RequestContext, prompts: Sequence[JudgedPrompt], job: AnswerJob
) -> list[AsyncGenerator[ChoicePart]]:
    """The answers: n for every prompt, in order."""
    found: list[AsyncGenerator[ChoicePart]] = []
    for i, prompt in enumerate(prompts):
        # Where another server was to answer and did not, ours has to begin again.
        first = 0 if isinstance(prompt.act, Route) else 1
        if first == 1:
            found.append(_read(job, prompt, answer(service, context, prompt)))
        for k in range(first, job.n):
            # Each answer draws with a seed of its own, so that they differ and can be repeated.
            sampling = prompt.ask.sampling
            ask = replace(prompt.ask, sampling=replace(sampling, seed=sampling.seed + k))
            again = answer_again(service, context, prompt, ask, i * job.n + k)
            found.append(_read(job, prompt, again))
    return found


def _read(
    job: AnswerJob, prompt: JudgedPrompt, parts: AsyncGenerator[ChoicePart]
) -> AsyncGenerator[ChoicePart]:
    """An answer of the model, its calls of tools read; a refusal of ours has none."""
    if job.offer is None or prompt.refusal is not None:
        return parts
    return with_calls(parts, job.offer.reader())


async def _gather(choices: Sequence[AsyncGenerator[ChoicePart]]) -> list[Choice]:
    done = [Choice() for _ in choices]
    async for index, part in merge(choices):
        done[index].add(part)
    return done


async def _chunks(
    context: RequestContext,
    prompts: Sequence[JudgedPrompt],
    choices: Sequence[AsyncGenerator[ChoicePart]],
    job: AnswerJob,
    shape: AnswerShape,
) -> AsyncGenerator[Json]:
    """The events of a stream."""
    done = [Choice() for _ in choices]
    async for index, part in merge(choices):
        done[index].add(part)
        for event in shape.events(index, part, prompts[index // job.n].told):
            if job.include_usage:
                event["usage"] = None
            yield event
    used = _usage(context, prompts, [choice.end for choice in done])
    for event in shape.ending(done, used, job.include_usage):
        yield event


def _usage(
    context: RequestContext, prompts: Sequence[JudgedPrompt], ends: Sequence[ChoiceEnd]
) -> Json:
    """Usage of all prompts and answers; also written down for the log."""
    used = usage(
        sum(len(o.ask.token_ids) for o in prompts),
        sum(end.num_tokens for end in ends),
        sum(o.read.cached_tokens for o in prompts),
    )
    context.facts |= {k: used[k] for k in ("prompt_tokens", "completion_tokens")}
    context.facts["finish_reason"] = ends[0].reason if ends else None
    return used


async def _route(
    service: Service,
    policy: Route,
    prompts: Sequence[JudgedPrompt],
    job: AnswerJob,
    shape: AnswerShape,
    stack: AsyncExitStack,
) -> Response | None:
    """An upstream's answer with our verdicts on the prompt; None if we have to answer after all.

    Raises:
        Refused: 502 if the upstream fails and the policy fails closed.
    """
    if len(prompts) > 1:
        raise Refused(
            400,
            "One of several prompts would be answered by another server; send them one by one.",
            "cannot_route",
            "prompt",
        )
    verdicts = shape.verdicts(prompts[0].told)
    if job.stream and not isinstance(shape, ChoiceShape):
        raise Refused(
            400,
            "Another server would answer this stream, and its events cannot be told with ours; ask "
            "without stream.",
            "cannot_route",
            "stream",
        )
    try:
        if not job.stream:
            body = await service.upstreams.post(policy.upstream, job.path, job.body)
            return JSONResponse({**body, "verdicts": verdicts}, headers=verdict_headers(verdicts))
        chunks = service.upstreams.stream(policy.upstream, job.path, job.body)
        stack.push_async_callback(chunks.aclose)
        first = await anext(chunks, None)
    except UpstreamError as error:
        if policy.closed:
            raise Refused(502, str(error), "upstream_failed") from error
        service.log("upstream_failed", upstream=policy.upstream)
        return None

    async def routed() -> AsyncGenerator[Json]:
        (begun,) = shape.events(0, ChoiceStart(prompts[0].told), prompts[0].told)
        yield begun
        if first is not None:
            yield first
        try:
            async for chunk in chunks:
                yield chunk
        except UpstreamError as error:
            raise Refused(502, str(error), "upstream_failed") from error

    return EventStream(routed(), stack.pop_all(), service.settings.limits.send_seconds)
