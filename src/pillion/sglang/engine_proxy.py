"""In SGLang's server: what its engine says of prompts becomes verdicts. Imports no SGLang.

Its handlers ask the engine in the context of their HTTP request. A request without one, of Python,
and SGLang's own route `/generate` have the verdicts in `meta_info`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import cache
from typing import Any

from pillion.backends.codec import Codec
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY
from pillion.riding.rendering import Rendering
from pillion.riding.request_verdicts import (
    PROBE_SECONDS,
    REQUEST_VERDICTS,
    EnginePrompt,
    RequestVerdicts,
)
from pillion.riding.turns import TURNS, turns_args
from pillion.sglang.settings import settings_of
from pillion.sglang.step import SECRET

OWN_ROUTE = "/generate"
"""SGLang's own, whose bodies have `meta_info`."""
FULL = ("response", "read")
"""What is kept of each of several answers."""


class EngineProxy:
    """Between the handlers of SGLang's server and its engine.

    Args:
        probes: that ride.
        codec: the model's tokenizer, for this alone.
        secret: see `SECRET`.

    Attributes:
        probes: as given.
    """

    def __init__(self, probes: Sequence[Artefact], codec: Codec, secret: str) -> None:
        self.probes = tuple(probes)
        scoped = any(probe.card.scope != "all" for probe in probes)
        self._rendering, self._secret = Rendering(codec, scoped), secret

    # -- a request on its way in

    def check_request(self, request: Any) -> None:
        """Returns if nothing in a conversation spells a control token.

        Raises:
            ValueError: something does; SGLang answers with status 400.
        """
        messages = [_plain(message) for message in request.messages or ()]
        others = {name: _plain(getattr(request, name, None)) for name in ("tools", "documents")}
        self._rendering.check_all(messages, **others)

    def tell_turns(self, adapted: Any, request: Any, tokenizer: Any) -> None:
        """Puts the turns of a conversation beside the prompt that SGLang has made of it.

        Args:
            adapted: SGLang's request to its engine.
            request: of the client.
            tokenizer: SGLang's, which tokenises a prompt that is a text.
        """
        if not self._rendering.scoped:
            return
        ids = adapted.input_ids or tokenizer(adapted.text)["input_ids"]
        messages = [_plain(message) for message in request.messages or ()]
        if told := turns_args(self._rendering.tokens(messages, ids)):
            others = adapted.sampling_params.get("custom_params") or {}
            mine = told | {SECRET: self._secret}
            adapted.sampling_params["custom_params"] = {**others, **mine}

    def check_turns(self, asked: Any) -> None:
        """Drops turns that a client gives itself, for it could forge them.

        Args:
            asked: SGLang's request to its engine, of one prompt or several.
        """
        for params in _every(asked):
            others = params.get("custom_params")
            if isinstance(others, dict) and others.get(SECRET) != self._secret:
                others.pop(TURNS, None)
                others.pop(SECRET, None)

    # -- an answer on its way out

    async def with_verdicts(
        self, outputs: AsyncGenerator[Any], asked: Any, path: str | None
    ) -> AsyncGenerator[Any]:
        """The outputs, with verdicts where SGLang's own shape is wanted, and without logits.

        Args:
            outputs: of SGLang's engine: a mapping, or a list of them for several answers.
            asked: the request; SGLang brings it into shape before the first output.
            path: of the HTTP request; None for one of Python.

        Raises:
            ValueError: it asks for what probes cannot read; SGLang answers with status 400.
        """
        for params in _every(asked):
            if (params.get("beam_width") or 1) > 1:
                raise ValueError(
                    f"beam_width={params['beam_width']}: beam search makes an answer of many "
                    "requests, of which no probe reads the whole; ask without it."
                )
        request = REQUEST_VERDICTS.get() or RequestVerdicts(self.probes)
        tells, first = path in (None, OWN_ROUTE), len(request.prompts)
        prompts = list[EnginePrompt]()
        async with aclosing(outputs):
            async for output in outputs:
                if not prompts:
                    prompts = [
                        request.begin(asked.parallel_sample_num) for _ in range(_prompts(asked))
                    ]
                many = output if isinstance(output, list) else [output]
                for place, one in enumerate(many):
                    place = one.get("index", place)
                    _take_logits(prompts, place, one["meta_info"])
                    if tells and request.probes:
                        own = place + first * prompts[0].choices
                        one["meta_info"]["verdicts"] = request.verdicts(own)
                yield output


def _take_logits(prompts: Sequence[EnginePrompt], place: int, meta_info: dict[str, Any]) -> None:
    """Takes the logits out of an output."""
    found = meta_info.pop(KEY, None)
    if found is None:
        return
    PROBE_SECONDS.update(found["seconds"])
    index, choice = divmod(place, prompts[0].choices)
    prompt = prompts[index]
    if prompt.choices > 1:
        others = (prompt.found or {}).get("choices", {})
        mine = {str(choice): {key: found[key] for key in FULL}}
        found = {**found, "choices": {**others, **mine}}
    prompt.found = found


def _every(asked: Any) -> list[dict[str, Any]]:
    """Sampling parameters of each prompt."""
    given = asked.sampling_params
    return [one or {} for one in (given if isinstance(given, list) else [given])]


def _prompts(asked: Any) -> int:
    return 1 if asked.is_single else asked.batch_size


def _plain(value: Any) -> Any:
    """Without fields that were not given, as a template sees it."""
    if hasattr(value, "model_dump"):
        return value.model_dump(exclude_none=True)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


_CODEC: list[Codec] = []


def use_codec(codec: Codec) -> None:
    """Tells this process the model's tokenizer, before its first request."""
    _CODEC[:] = [codec]


@cache
def engine_proxy() -> EngineProxy:
    """The proxy of this process.

    Raises:
        ConfigError: this is no server that `pillion sglang` has started.
    """
    settings = settings_of(os.environ)
    if settings is None or not _CODEC:
        raise ConfigError("Probes ride in a server alone; start it with `pillion sglang`.")
    return EngineProxy(settings.load(), _CODEC[0], settings.secret)
