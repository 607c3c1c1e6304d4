# pyright: reportMissingImports=false
"""Verdicts in the answers of `vllm serve`: a plugin of its HTTP server.

A body gets `verdicts` at its top (and in every choice, if there are several). A stream gets one
event before the first text that follows its (first) prompt, with that prompt's verdicts, and one
before its end, with all of them.
vLLM loads the plugin only if `VLLM_PLUGINS` names it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, ClassVar

from pillion.backends.checkpoint import load_codec
from pillion.errors import StateError
from pillion.probe import Artefact
from pillion.vllm.rendering import Rendering
from pillion.vllm.settings import PLUGIN, ProbeSettings, has_settings
from pillion.vllm.start import check_template
from pillion.vllm.verdicts import answer_json, verdicts_of

Json = dict[str, Any]


class Endpoint:
    """The plugin; see `vllm.plugins.endpoint_plugins.interface.EndpointPlugin`."""

    name = PLUGIN
    required_tasks: ClassVar[tuple[str, ...]] = ("generate",)

    def attach_router(self, app: Any) -> None:
        """Adds a route that lists the probes."""

        @app.get("/v1/probes")
        async def probes() -> Json:
            riding: Sequence[Artefact] = getattr(app.state, "pillion_probes", ())
            return {"object": "list", "data": [_entry(a) for a in riding]}

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Puts verdicts into what the server's handlers return."""
        config = engine_client and engine_client.vllm_config.additional_config
        if not has_settings(config):
            return
        from vllm.renderers.chat_utils import load_chat_template

        settings = ProbeSettings.of(config)
        state.pillion_probes = probes = tuple(settings.load())
        scoped = any(probe.card.scope != "all" for probe in probes)
        codec = load_codec(engine_client.vllm_config.model_config.tokenizer)
        if not settings.allow_mismatch:
            given = load_chat_template(args.chat_template)
            check_template(probes, codec.tokenizer.chat_template, given)
        Rendering(codec, scoped).watch(state.online_renderer, engine_client)
        chat, completion = state.openai_serving_chat, state.openai_serving_completion
        if chat is not None:
            chat.chat_completion_stream_generator = partial(
                _stream_chat, probes, chat.chat_completion_stream_generator
            )
            chat.chat_completion_full_generator = partial(
                _full_chat, probes, chat.chat_completion_full_generator
            )
        if completion is not None:
            completion.completion_stream_generator = partial(
                _stream_completion, probes, completion.completion_stream_generator
            )
            completion.request_output_to_completion_response = partial(
                _full_completion, probes, completion.request_output_to_completion_response
            )


class Seen:
    """Follows the outputs of a request on their way to vLLM's handler.

    Args:
        probes: that ride.
        choices: answers to each prompt.
    """

    def __init__(self, probes: Sequence[Artefact], choices: int | None) -> None:
        self.probes, self.choices = probes, choices or 1
        self.params: dict[int, Json] = {}
        self.num_tokens: dict[int, int] = {}

    def add(self, output: Any, prompt: int = 0) -> None:
        """Takes an output, whole or a delta."""
        self.params[prompt] = output.kv_transfer_params or {}
        for choice in output.outputs:
            place = prompt * self.choices + choice.index
            self.num_tokens[place] = self.num_tokens.get(place, 0) + len(choice.token_ids)

    def verdicts(self, place: int) -> Json:
        """Of a choice, counted over all prompts."""
        prompt, index = divmod(place, self.choices)
        choice = index if self.choices > 1 else None
        try:
            found = verdicts_of(self.params.get(prompt), self.probes, choice)
        except StateError as error:
            return {"error": str(error)}
        return answer_json(found, self.probes)

    def prompt_event(self, head: Json) -> str:
        """The event before the first text."""
        return _event({**head, "choices": [], "verdicts": self.verdicts(0)})

    def last_event(self, head: Json, empty: Json) -> str:
        """The event before the end; `empty` is how a choice says nothing."""
        places = sorted(self.num_tokens)
        several = [
            {"index": i, **empty, "finish_reason": None, "verdicts": self.verdicts(i)}
            for i in (places if len(places) > 1 else ())
        ]
        return _event({**head, "choices": several, "verdicts": self.verdicts(0)})


async def _stream_chat(
    probes: Sequence[Artefact],
    plain: Any,
    request: Any,
    outputs: AsyncIterator[Any],
    request_id: str,
    *args: Any,
    **kwargs: Any,
) -> AsyncIterator[str]:
    seen = Seen(probes, request.n)

    async def watched() -> AsyncIterator[Any]:
        async for output in outputs:
            seen.add(output)
            yield output

    events = plain(request, watched(), request_id, *args, **kwargs)
    async for event in _with_verdicts(seen, events, {"delta": {}}):
        yield event


async def _stream_completion(
    probes: Sequence[Artefact],
    plain: Any,
    request: Any,
    inputs: Any,
    outputs: AsyncIterator[tuple[int, Any]],
    *args: Any,
    **kwargs: Any,
) -> AsyncIterator[str]:
    seen = Seen(probes, request.n)

    async def watched() -> AsyncIterator[tuple[int, Any]]:
        async for prompt, output in outputs:
            seen.add(output, prompt)
            yield prompt, output

    events = plain(request, inputs, watched(), *args, **kwargs)
    async for event in _with_verdicts(seen, events, {"text": ""}):
        yield event


async def _with_verdicts(seen: Seen, events: AsyncIterator[str], empty: Json) -> AsyncIterator[str]:
    """The handler's events, and ours: of several prompts, a later one may be heard of first."""
    head: Json | None = None
    async for event in events:
        if head is None and 0 in seen.params and (head := _head(event)) is not None:
            yield seen.prompt_event(head)
        if head is not None and event.startswith("data: [DONE]"):
            yield seen.last_event(head, empty)
        yield event


async def _full_chat(
    probes: Sequence[Artefact],
    plain: Any,
    request: Any,
    outputs: AsyncIterator[Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    seen = Seen(probes, request.n)

    async def watched() -> AsyncIterator[Any]:
        async for output in outputs:
            seen.num_tokens.clear()  # outputs are whole here, not deltas
            seen.add(output)
            yield output

    return _put(seen, await plain(request, watched(), *args, **kwargs))


def _full_completion(
    probes: Sequence[Artefact],
    plain: Any,
    outputs: Sequence[Any],
    request: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    seen = Seen(probes, request.n)
    for prompt, output in enumerate(outputs):
        seen.add(output, prompt)
    return _put(seen, plain(outputs, request, *args, **kwargs))


def _put(seen: Seen, response: Any) -> Any:
    """Verdicts into a body of vLLM's; an error's body stays as it is."""
    if not seen.num_tokens or not hasattr(response, "choices"):
        return response
    response.verdicts = seen.verdicts(0)
    if len(response.choices) > 1:
        for choice in response.choices:
            choice.verdicts = seen.verdicts(choice.index)
    return response


def _head(event: str) -> Json | None:
    """What our events have in common with the stream's; None for an event of another kind."""
    try:
        content = json.loads(event.removeprefix("data: "))
    except ValueError:
        return None
    if "choices" not in content:
        return None
    return {name: content[name] for name in ("id", "object", "created", "model")}


def _event(content: Json) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _entry(artefact: Artefact) -> Json:
    card = artefact.card
    return {
        "id": artefact.name,
        "object": "probe",
        "task": card.task,
        "labels": list(card.labels),
        "layers": list(card.layers),
    }
