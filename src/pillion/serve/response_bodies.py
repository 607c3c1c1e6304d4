"""Body of `/v1/responses`, OpenAI's newer interface, and the chat that it asks for.

Nothing is stored: what would need an earlier response is refused by name. Knows no engine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictStr,
    Tag,
    ValidationError,
    WithJsonSchema,
)

from pillion.core.strict import first_fault
from pillion.serve.parameters import (
    Arguments,
    CallId,
    JsonObject,
    Neutral,
    Nothing,
    ToolName,
    joined,
)
from pillion.serve.refusal import Refused
from pillion.serve.requests import ChatRequest, StrictBody, ToolRef, VerdictOptions

Json = dict[str, Any]
_PARTS = ("input_text", "output_text", "text")


def _text_of_parts(content: Any) -> Any:
    only = f"only parts of the types {', '.join(_PARTS)} are understood"
    keys = ("type", "text", "annotations", "logprobs")
    return joined(content, _PARTS, keys, only, "a part of the type {kind}")


_TEXT = {"type": "string"}
_PART = {
    "type": "object",
    "properties": {"type": {"enum": list(_PARTS)}, "text": _TEXT},
    "required": ["type", "text"],
}
Words = Annotated[
    StrictStr,
    BeforeValidator(_text_of_parts),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _PART, "minItems": 1}]}),
]


class _Item(StrictBody):
    """What all items may have and we do not read: a client may send an answer's items back."""

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class InputMessage(_Item):
    """A turn of the conversation: its role and its words."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Words


class InputCall(_Item):
    """A call of an earlier answer."""

    type: Literal["function_call"]
    call_id: CallId
    name: ToolName
    arguments: Arguments


class InputResult(_Item):
    """What a tool has answered."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Words


def _kind(item: Any) -> Any:
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputResult, Tag("function_call_output")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message="an item is a message, a function_call or a function_call_output; "
        "nothing is stored here that an item_reference could mean: have the items themselves sent "
        "(store: false in clients that refer to them)",
    ),
]


class FunctionTool(StrictBody):
    """A tool: a function."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class NamedFunction(ToolRef):
    """A tool that has to be called."""

    type: Literal["function"]


class TextFormat(StrictBody):
    """The form of the text."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] = "answer"
    description: str | None = None
    schema_: Annotated[JsonObject | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseTextOptions(StrictBody):
    """What is wanted of the text."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, Neutral("medium")] = None


def _asked(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _or_text(schema: Json) -> None:
    """Says in the schema that the input may be a string."""
    places = schema["properties"]
    places["input"] = {"anyOf": [{"type": "string"}, places["input"]]}


class ResponsesRequest(StrictBody):
    """Body of `/v1/responses`."""

    model_config = ConfigDict(json_schema_extra=_or_text)

    model: str
    input: Annotated[list[Item], Field(min_length=1, fail_fast=True), BeforeValidator(_asked)]
    instructions: str | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    stream: bool | None = None
    text: ResponseTextOptions | None = None
    tools: Annotated[list[FunctionTool] | None, Field(max_length=128)] = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    pillion: VerdictOptions | None = None
    # No effect on an answer.
    metadata: JsonObject | None = None
    store: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: Annotated[Any, Neutral("auto", "default")] = None
    # At the value that asks for nothing.
    background: Annotated[Any, Neutral(False)] = None
    context_management: Nothing = None
    conversation: Nothing = None
    include: Annotated[Any, Neutral([], ["reasoning.encrypted_content"])] = None
    max_tool_calls: Nothing = None
    moderation: Nothing = None
    previous_response_id: Nothing = None
    prompt: Nothing = None
    reasoning: Annotated[Any, Neutral({}, {"effort": "none"})] = None
    stream_options: Annotated[Any, Neutral({}, {"include_obfuscation": False})] = None
    top_logprobs: Annotated[Any, Neutral(0)] = None
    truncation: Annotated[Any, Neutral("disabled")] = None


_NAMES = {"messages": "input", "response_format": "text", "max_tokens": "max_output_tokens"}


def renamed(error: Refused) -> Refused:
    """A refusal of the chat, by the name that the parameter has here."""
    param = _NAMES.get(error.param or "", error.param)
    return Refused(error.status_code, str(error.detail), error.code, param, error.headers)


def chat_of(body: ResponsesRequest) -> ChatRequest:
    """The chat that is asked for.

    Raises:
        Refused: 400, what a chat cannot be asked for either.
    """
    facts: Json = {
        "model": body.model,
        "messages": _messages(body),
        "tools": [_tool(one) for one in body.tools or ()] or None,
        "tool_choice": _choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _format(body.text),
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "stream": body.stream,
        "prompt_cache_key": body.prompt_cache_key,
        "pillion": body.pillion,
    }
    try:
        return ChatRequest.model_validate({k: v for k, v in facts.items() if v is not None})
    except ValidationError as error:
        fault = first_fault(error)
        name = fault.field or None
        raise renamed(Refused(400, f"{fault.message}.", "invalid_value", name)) from error


def _messages(body: ResponsesRequest) -> list[Json]:
    turns: list[Json] = []
    if body.instructions:
        turns.append({"role": "system", "content": body.instructions})
    for item in body.input:
        if isinstance(item, InputMessage):
            turns.append({"role": item.role, "content": item.content})
        elif isinstance(item, InputResult):
            turn = {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
            turns.append(turn)
        else:
            if not turns or turns[-1]["role"] != "assistant":
                turns.append({"role": "assistant", "content": ""})
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            turns[-1].setdefault("tool_calls", []).append(call)
    return turns


def _tool(tool: FunctionTool) -> Json:
    return {"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"type"})}


def _choice(choice: str | NamedFunction | None) -> Any:
    if isinstance(choice, NamedFunction):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _format(text: ResponseTextOptions | None) -> Json | None:
    wanted = text.format if text else None
    if wanted is None or wanted.type != "json_schema":
        return wanted and {"type": wanted.type}
    schema = {"name": wanted.name, "schema": wanted.schema_, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": schema}
