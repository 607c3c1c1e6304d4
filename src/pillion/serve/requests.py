"""What clients send: OpenAI's request bodies, each parameter honoured or refused by name.

Three kinds of parameters: those that are honoured; those that have no effect on an answer and are
accepted (`user`, `metadata`, `store`, ...); those that are only accepted at the value that means
nothing. Everything else is an unknown key. Knows no engine.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictStr,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_plain_validator_function

from pillion.core import Template

INT64 = 2**63
STOP_CHARS = 256
"""Of a stop string: every token is compared with all beginnings of it."""


def _fault(message: str) -> PydanticCustomError:
    # The message is no template: braces in it are the caller's.
    return PydanticCustomError("value_error", "{fault}", {"fault": message})


class Neutral:
    """Marks a parameter that is accepted only at values that ask for nothing; null is one."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Refuses every other value, by name."""
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """The values."""
        return {"enum": [None, *self.values]}

    def _check(self, got: Any) -> Any:
        if got is None or any(type(got) is type(v) and got == v for v in self.values):
            return got
        only = " or ".join(["null", *map(repr, self.values)])
        fault = f"this server has no support for it; leave it out, or give {only}"
        raise PydanticCustomError("unsupported", "{fault}", {"fault": fault})


def _joined(content: Any) -> Any:
    """A message's text: a string, or OpenAI's list of text parts."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise _fault("only parts of type 'text' are understood; this model reads no others")
        if unknown := set(part) - {"type", "text"}:
            raise _fault(f"a text part has no {sorted(map(str, unknown))[0]!r}")
        texts.append(part["text"])
    return "".join(texts)


def _listed(stops: Any) -> Any:
    stops = [stops] if isinstance(stops, str) else [] if stops is None else stops
    fits = isinstance(stops, list) and all(isinstance(s, str) and s for s in stops)
    if not fits or len(stops) > 4 or max(map(len, stops), default=0) > STOP_CHARS:
        raise _fault(
            f"a string, or a list of up to 4 strings of at most {STOP_CHARS} characters, none of "
            "them empty, is wanted"
        )
    return stops


def _prompts(given: Any) -> Any:
    """A completion's prompts: each a string or a list of token ids."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise _fault("a string, a list of strings, a list of token ids or a list of those")
    if all(type(one) is int for one in given):
        return [given]
    for one in given:
        ids = isinstance(one, list) and one and all(type(i) is int for i in one)
        if not isinstance(one, str) and not ids:
            raise _fault("every prompt must be a string or a list of token ids")
    return given


def _inputs(given: Any) -> Any:
    """Texts to classify: a string, strings, or OpenAI's list of text parts."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and all(isinstance(one, dict) for one in given):
        return [_joined(given)]
    if not isinstance(given, list) or not given or not all(isinstance(t, str) for t in given):
        raise _fault("a string or a list of one or more strings is wanted")
    return given


_TEXT = {"type": "string"}
_PARTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": _TEXT},
        "required": ["type", "text"],
        "additionalProperties": False,
    },
    "minItems": 1,
}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_STOP = {"type": "string", "minLength": 1, "maxLength": STOP_CHARS}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}

Content = Annotated[StrictStr, BeforeValidator(_joined), WithJsonSchema({"anyOf": [_TEXT, _PARTS]})]
Stops = Annotated[
    list[StrictStr],
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                _STOP,
                {"type": "array", "items": _STOP, "maxItems": 4},
                {"type": "null"},
            ]
        }
    ),
]
Prompts = Annotated[
    list[Any],
    BeforeValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                _TEXTS,
                _IDS,
                {"type": "array", "items": _IDS, "minItems": 1},
            ]
        }
    ),
]
Inputs = Annotated[
    list[StrictStr],
    Field(fail_fast=True),
    BeforeValidator(_inputs),
    WithJsonSchema({"anyOf": [_TEXT, _TEXTS, _PARTS]}),
]
Nothing = Annotated[Any, Neutral()]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Body):
    """Of a stream: whether a last chunk tells the usage."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, Neutral(False)] = None


class Message(_Body):
    """One turn of a conversation. An answer of ours may be sent back as it came."""

    role: Annotated[str, Field(pattern="^(system|developer|user|assistant|tool)$")]
    content: Content
    tool_call_id: Annotated[str | None, Field(max_length=128)] = None
    name: Nothing = None
    refusal: Nothing = None
    annotations: Annotated[Any, Neutral([])] = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: Annotated[Any, Neutral([])] = None


def _talks(given: Any) -> Any:
    """Conversations to judge: a list of messages, or a list of such lists."""
    if isinstance(given, list) and given and all(isinstance(one, dict) for one in given):
        return [given]
    return given


_Talk = Annotated[list[Message], Field(min_length=1, fail_fast=True)]
Conversations = Annotated[list[_Talk], Field(min_length=1, fail_fast=True), BeforeValidator(_talks)]


class _Sampled(_Body):
    """What both ways of generating take."""

    model: str
    n: Annotated[int | None, Field(ge=1, le=128)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-INT64, lt=INT64)] = None
    stop: Stops = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt_cache_key: str | None = None
    # No effect on an answer.
    user: str | None = None
    # At the value that asks for nothing.
    frequency_penalty: Annotated[Any, Neutral(0, 0.0)] = None
    presence_penalty: Annotated[Any, Neutral(0, 0.0)] = None
    logit_bias: Annotated[Any, Neutral({})] = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> _Sampled:
        if self.stream_options is not None and not self.stream:
            raise _fault("stream_options is only for streams; add stream: true, or leave it out")
        return self


class ChatRequest(_Sampled):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    # No effect on an answer.
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: Annotated[Any, Neutral("auto", "default")] = None
    # At the value that asks for nothing.
    audio: Nothing = None
    function_call: Annotated[Any, Neutral("none")] = None
    functions: Annotated[Any, Neutral([])] = None
    modalities: Annotated[Any, Neutral(["text"])] = None
    moderation: Nothing = None
    parallel_tool_calls: Annotated[Any, Neutral(True, False)] = None
    prediction: Nothing = None
    prompt_cache_options: Nothing = None
    reasoning_effort: Annotated[Any, Neutral("none")] = None
    response_format: Annotated[Any, Neutral({"type": "text"})] = None
    tool_choice: Annotated[Any, Neutral("none")] = None
    tools: Annotated[Any, Neutral([])] = None
    verbosity: Annotated[Any, Neutral("medium")] = None
    web_search_options: Nothing = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise _fault("top_logprobs needs logprobs: true")
        two = (self.max_tokens, self.max_completion_tokens)
        if None not in two and two[0] != two[1]:
            raise _fault("max_tokens and max_completion_tokens differ; give one of them")
        return self


class CompletionRequest(_Sampled):
    """Body of `/v1/completions`."""

    prompt: Prompts
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None
    # At the value that asks for nothing.
    best_of: Annotated[Any, Neutral(1)] = None
    echo: Annotated[Any, Neutral(False)] = None
    suffix: Annotated[Any, Neutral("")] = None


def _one_of_two(schema: dict[str, Any]) -> None:
    """Says in the schema what `_Judged` asks for: input or messages, and neither is null."""
    for name in ("input", "messages"):
        given = schema["properties"][name]
        given["anyOf"] = [one for one in given["anyOf"] if one != {"type": "null"}]
        given.pop("default", None)
    schema["oneOf"] = [{"required": ["input"]}, {"required": ["messages"]}]


class _Judged(_Body):
    """What is to be judged: texts, or conversations."""

    model_config = ConfigDict(json_schema_extra=_one_of_two)

    input: Inputs | None = None
    messages: Conversations | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> _Judged:
        if (self.input is None) == (self.messages is None):
            raise _fault("give input (texts) or messages (conversations), one of the two")
        return self


class ModerationRequest(_Judged):
    """Body of `/v1/moderations`; `model` is the name of a probe."""

    model: str | None = None


class ClassifyRequest(_Judged):
    """Body of `/v1/classify`; without `probes` all are read, without `template` as trained."""

    probes: Annotated[list[str] | None, Field(min_length=1, max_length=256)] = None
    template: Template | None = None
    model: str | None = None


class ExplainRequest(_Body):
    """Body of `/v1/explain`; without `probe` the first one, without `label` the decided one."""

    input: Annotated[str, Field(min_length=1)]
    probe: str | None = None
    label: str | None = None
    template: Template | None = None
    model: str | None = None


class ProbeRequest(_Body):
    """Body that loads a probe: its folder on the server, and the name to sign verdicts with."""

    path: Annotated[str, Field(min_length=1)]
    name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = None


class SwapRequest(_Body):
    """Body that puts another probe in the place of one."""

    path: Annotated[str, Field(min_length=1)]
