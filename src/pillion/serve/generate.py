"""`/v1/chat/completions`, `/v1/responses`, `/v1/completions`: a body becomes a job and a shape."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from pillion.backends import Coder
from pillion.core import as_tokens
from pillion.errors import ConfigError, DataError
from pillion.runtime import Sampling
from pillion.runtime.engine import check_ids
from pillion.serve.answering import AnswerRequest
from pillion.serve.answers import AnswerShape, ChatShape, CompletionShape, Decode
from pillion.serve.body import BodyRoute
from pillion.serve.refusal import Refused
from pillion.serve.request_context import context_of
from pillion.serve.requests import ChatRequest, CompletionRequest, StrictBody
from pillion.serve.respond import AnswerJob, respond
from pillion.serve.response_bodies import ResponsesRequest, chat_of, renamed
from pillion.serve.response_shape import ResponseShape
from pillion.serve.service import Service
from pillion.serve.tools import OfferedTools, offer_of
from pillion.serve.turns import num_chars, transcript, turns_of
from pillion.serve.verdict_selection import VerdictSelection, selection_of
from pillion.serve.wanted_form import json_form

COMPLETION_TOKENS = 16
"""Of a completion that names no limit, as OpenAI has it."""

_Request = ChatRequest | CompletionRequest


def generate_routes(service: Service) -> APIRouter:
    """The routes that generate."""
    routes = APIRouter(route_class=BodyRoute)

    @routes.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """An answer to a conversation, with verdicts on both."""
        shape = ChatShape(*_head(service, body, request, bool(body.logprobs)))
        return await answer_chat(service, body, request, "/chat/completions", body, shape)

    @routes.post("/v1/responses")
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """The same, in OpenAI's newer shape; nothing is stored."""
        context, dry_run = context_of(request.scope), service.settings.dry_run
        shape = ResponseShape(context.id, body, int(time.time()), dry_run)
        try:
            chat = chat_of(body)
            return await answer_chat(service, chat, request, "/responses", body, shape)
        except Refused as error:
            raise renamed(error) from error

    @routes.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """What follows a text, with verdicts on both."""
        service.check_model(body.model)
        service.check_chars([len(prompt) for prompt in body.prompt], "prompt")
        selection = selection_of(service, context_of(request.scope).account.caller, body.pillion)
        asks: list[AnswerRequest] = []
        for prompt in body.prompt:
            limit = body.max_tokens or COMPLETION_TOKENS
            ids, text = await _read_prompt(service, prompt)
            asks.append(_ask(service, body, ids, text, limit, body.logprobs, "prompt", selection))
        job = _job(service, body, asks, "/completions", body)
        shape = CompletionShape(*_head(service, body, request, body.logprobs is not None))
        return await respond(request, service, job, shape)

    return routes


async def answer_chat(
    service: Service,
    body: ChatRequest,
    request: Request,
    path: str,
    sent: StrictBody,
    shape: AnswerShape,
) -> Response:
    """The answer to a conversation.

    Args:
        service: the server.
        body: what is asked for.
        request: that it came in.
        path: below `/v1`, where it came.
        sent: the body as it came.
        shape: of the answer.
    """
    service.check_model(body.model)
    selection = selection_of(service, context_of(request.scope).account.caller, body.pillion)
    codec = service.engine.codec
    offer, turns = offer_of(body, codec), turns_of(body.messages, codec)
    tools = offer.tools if offer else ()
    length = num_chars(turns) + len(json.dumps(tools))
    service.check_chars([length], "messages")
    ids = await service.encode(lambda: codec.encode_chat(turns, tools), length)
    text = transcript(turns)
    limit = body.max_completion_tokens or body.max_tokens
    top = (body.top_logprobs or 0) if body.logprobs else None
    ask = _ask(service, body, ids, text, limit, top, "messages", selection)
    grammar, param = _grammar(body, offer, codec)
    if grammar:
        await _check_grammar(service, grammar, param)
    ask = replace(ask, grammar=grammar, marks=offer.marks(codec) if offer else {})
    job = replace(_job(service, body, [ask], path, sent), offer=offer)
    return await respond(request, service, job, shape)


async def _read_prompt(service: Service, prompt: str | list[int]) -> tuple[Sequence[int], str]:
    """Token ids and text of a prompt that came as one of the two."""
    engine = service.engine
    if isinstance(prompt, str):
        return await service.encode(lambda: engine.codec.encode(prompt, "raw"), len(prompt)), prompt
    _check_ids(service, prompt, "prompt")
    _max_tokens(service, len(prompt), None, "prompt")  # before all of them are made text
    return prompt, await service.encode(lambda: engine.codec.decode(prompt), len(prompt))


def _ask(
    service: Service,
    body: _Request,
    ids: Sequence[int],
    text: str,
    limit: int | None,
    top_logprobs: int | None,
    param: str,
    selection: VerdictSelection,
) -> AnswerRequest:
    seed = secrets.randbits(32) if body.seed is None else body.seed % 2**32
    temperature = _or(body.temperature, 1.0)
    if body.seed is not None and temperature and not service.engine.repeats_draws:
        why = "This server's engine draws other tokens each time, whatever the seed"
        raise Refused(
            400, f"{why}; leave it out, or ask for temperature 0.", "unsupported_parameter", "seed"
        )
    sampling = Sampling(
        temperature,
        _or(body.top_p, 1.0),
        seed,
        _or(body.min_p, 0.0),
        _or(body.presence_penalty, 0.0),
        _or(body.frequency_penalty, 0.0),
        _or(body.repetition_penalty, 1.0),
        tuple(body.logit_bias.items()),
    )
    _check_ids(service, list(body.logit_bias), "logit_bias")
    return AnswerRequest(
        as_tokens(ids),
        text,
        _max_tokens(service, len(ids), limit, param),
        sampling,
        tuple(body.stop),
        top_logprobs,
        body.prompt_cache_key,
        selection,
    )


def _grammar(body: ChatRequest, offer: OfferedTools | None, codec: Coder) -> tuple[str, str]:
    """What an answer must follow, empty for nothing; and the parameter that wants it."""
    wanted, schema = body.response_format, None
    if wanted is not None and wanted.type != "text":
        schema = wanted.json_schema.schema_ if wanted.json_schema else {"type": "object"}
    if offer is not None:
        return offer.grammar(codec, schema), "response_format" if schema else "tools"
    return (json_form(schema), "response_format") if schema is not None else ("", "")


async def _check_grammar(service: Service, grammar: str, param: str) -> None:
    """Returns if answers can follow a grammar, which is then kept compiled.

    Raises:
        Refused: 400.
    """
    try:
        await service.check_grammar(grammar)
    except ConfigError as error:
        raise Refused(400, str(error), "invalid_value", param) from error


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _check_ids(service: Service, token_ids: Sequence[int], param: str) -> None:
    try:
        check_ids(token_ids, service.engine.vocab_size)
    except DataError as error:
        raise Refused(400, str(error), "invalid_value", param) from error


def _max_tokens(service: Service, prompt_tokens: int, limit: int | None, param: str) -> int:
    """Tokens that the answer may have.

    Raises:
        Refused: the prompt is empty or leaves no room, or more is asked for than is given.
    """
    most = service.settings.limits.output_tokens
    window = service.engine.window_tokens
    if prompt_tokens == 0:
        raise Refused(400, "The prompt is empty; give it some words.", "invalid_value", param)
    if limit is not None and limit > most:
        raise Refused(
            400,
            f"max_tokens is {limit:,}, this server gives up to {most:,}; ask for less.",
            "invalid_value",
            "max_tokens",
        )
    room = window - prompt_tokens
    if room < (limit or 1):
        wanted = f" and {limit:,} for the answer" if limit else ""
        raise Refused(
            400,
            f"This server's context is {window:,} tokens, the request needs {prompt_tokens:,}"
            f"{wanted}; shorten the prompt or ask for less.",
            "context_length_exceeded",
            param,
        )
    return limit or min(room, most)


def _job(
    service: Service, body: _Request, asks: Sequence[AnswerRequest], path: str, sent: StrictBody
) -> AnswerJob:
    n, most = body.n or 1, service.settings.limits.choices
    if n * len(asks) > most:
        raise Refused(
            400,
            f"The request wants {n * len(asks)} answers, this server gives up to {most} at once.",
            "invalid_value",
            "n",
        )
    options = body.stream_options
    return AnswerJob(
        tuple(asks),
        n,
        bool(body.stream),
        bool(options and options.include_usage),
        path,
        sent.model_dump(exclude_unset=True, by_alias=True, exclude={"pillion"}),
    )


def _head(
    service: Service, body: _Request, request: Request, logprobs: bool
) -> tuple[str, str, int, Decode, bool, bool]:
    """What is the same in all chunks of an answer."""
    id, now, dry_run = context_of(request.scope).id, int(time.time()), service.settings.dry_run
    return id, body.model, now, service.engine.codec.decode, logprobs, dry_run
