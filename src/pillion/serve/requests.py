"""What clients send: OpenAI's request bodies, each parameter honoured or refused by name.

Three kinds of parameters: those that are honoured; those that have no effect on an answer and are
accepted (`user`, `metadata`, `store`, ...); those that are only accepted at the value that means
nothing. Everything else is an unknown key. Knows no engine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pillion.core import Template
from pillion.runtime.sampling import MIN_REPETITION_PENALTY
from pillion.serve.parameters import (
    Arguments,
    Biases,
    CallId,
    Content,
    Inputs,
    JsonObject,
    Neutral,
    Nothing,
    Prompts,
    Stops,
    ToolName,
    fault,
)

INT64 = 2**63


class StrictBody(BaseModel):
    """What all bodies have: they are strict."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(StrictBody):
    """Of a stream: whether a last chunk tells the usage."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, Neutral(False)] = None


class CalledFunction(StrictBody):
    """What an earlier answer called, and with what: a JSON object, as text."""

    name: ToolName
    arguments: Arguments


class MessageCall(StrictBody):
    """A call in an earlier answer."""

    id: CallId
    type: Literal["function"]
    function: CalledFunction


class Message(StrictBody):
    """One turn of a conversation. An answer of ours may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    tool_call_id: CallId | None = None
    name: Annotated[str | None, Field(max_length=64)] = None
    refusal: Nothing = None
    annotations: Annotated[Any, Neutral([])] = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: Annotated[list[MessageCall] | None, Field(max_length=128)] = None

    @model_validator(mode="before")
    @classmethod
    def _calls_need_no_words(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("role") == "assistant" and given.get("tool_calls"):
            return {**given, "content": given.get("content") or ""}
        return given

    @model_validator(mode="after")
    def _only_answers_call(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise fault(f"a turn of the {self.role} calls no tools; only answers have tool_calls")
        return self


class Function(StrictBody):
    """What a model may call."""

    name: ToolName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ToolBody(StrictBody):
    """A tool: a function."""

    type: Literal["function"]
    function: Function


class ToolRef(StrictBody):
    """The name of a tool."""

    name: ToolName


class NamedTool(StrictBody):
    """A tool that has to be called."""

    type: Literal["function"]
    function: ToolRef


class JsonSchema(StrictBody):
    """What a JSON answer has to be; followed whether or not it is called strict."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[JsonObject, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(StrictBody):
    """The form of an answer: text, a JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise fault("json_schema is for the type 'json_schema', which needs it")
        return self


def _talks(given: Any) -> Any:
    """Conversations to judge: a list of messages, or a list of such lists."""
    if isinstance(given, list) and given and all(isinstance(one, dict) for one in given):
        return [given]
    return given


_Talk = Annotated[list[Message], Field(min_length=1, fail_fast=True)]
Conversations = Annotated[list[_Talk], Field(min_length=1, fail_fast=True), BeforeValidator(_talks)]


class VerdictOptions(StrictBody):
    """What is told of verdicts: of which probes, and binary ones from which probability on."""

    probes: Annotated[list[str] | None, Field(max_length=256)] = None
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None


class _Sampled(StrictBody):
    """What both ways of generating take."""

    model: str
    n: Annotated[int | None, Field(ge=1, le=128)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    repetition_penalty: Annotated[float | None, Field(ge=MIN_REPETITION_PENALTY, le=2)] = None
    logit_bias: Biases = {}
    seed: Annotated[int | None, Field(ge=-INT64, lt=INT64)] = None
    stop: Stops = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt_cache_key: str | None = None
    pillion: VerdictOptions | None = None
    # No effect on an answer.
    user: str | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> _Sampled:
        if self.stream_options is not None and not self.stream:
            raise fault("stream_options is only for streams; add stream: true, or leave it out")
        return self


class ChatRequest(_Sampled):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: Annotated[list[ToolBody] | None, Field(max_length=128, fail_fast=True)] = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    parallel_tool_calls: bool | None = None
    # No effect on an answer.
    metadata: JsonObject | None = None
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
    prediction: Nothing = None
    prompt_cache_options: Nothing = None
    reasoning_effort: Annotated[Any, Neutral("none")] = None
    verbosity: Annotated[Any, Neutral("medium")] = None
    web_search_options: Nothing = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise fault("top_logprobs needs logprobs: true")
        two = (self.max_tokens, self.max_completion_tokens)
        if None not in two and two[0] != two[1]:
            raise fault("max_tokens and max_completion_tokens differ; give one of them")
        if not self.tools and self.tool_choice not in (None, "none"):
            raise fault("tool_choice is for tools, and there are none; add some, or leave it out")
        names = [tool.function.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise fault(f"tool_choice names {self.tool_choice.function.name!r}, which is no tool")
        if twice := [name for name in names if names.count(name) > 1]:
            raise fault(f"two tools are called {twice[0]!r}; give each a name of its own")
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


class _Judged(StrictBody):
    """What to judge: texts, or conversations."""

    model_config = ConfigDict(json_schema_extra=_one_of_two)

    input: Inputs | None = None
    messages: Conversations | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> _Judged:
        _check_one(self.input, self.messages)
        return self


def _check_one(texts: object, conversations: object) -> None:
    if (texts is None) == (conversations is None):
        raise fault("give input (texts) or messages (conversations), one of the two")


class ModerationRequest(_Judged):
    """Body of `/v1/moderations`; `model` is the name of a probe."""

    model: str | None = None


class ClassifyRequest(_Judged):
    """Body of `/v1/classify`; without `probes` all are read, without `template` as trained."""

    probes: Annotated[list[str] | None, Field(min_length=1, max_length=256)] = None
    template: Template | None = None
    model: str | None = None


class ClassificationRequest(_Judged):
    """Body of `/classify`, as vLLM has it; `model` is the name of a probe."""

    model: str | None = None
    user: str | None = None


class ExplainRequest(StrictBody):
    """Body of `/v1/explain`; without `probe` the first one, without `label` the decided one."""

    model_config = ConfigDict(json_schema_extra=_one_of_two)

    input: Annotated[str, Field(min_length=1)] | None = None
    messages: _Talk | None = None
    probe: str | None = None
    label: str | None = None
    template: Template | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ExplainRequest:
        _check_one(self.input, self.messages)
        return self


class ProbeRequest(StrictBody):
    """Body that loads a probe: its folder on the server, and the name to sign verdicts with."""

    path: Annotated[str, Field(min_length=1)]
    name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = None


class SwapRequest(StrictBody):
    """Body that puts another probe in the place of one."""

    path: Annotated[str, Field(min_length=1)]
