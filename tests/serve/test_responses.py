"""`/v1/responses`: OpenAI's newer interface on the same answers, whole and as events."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from client import application, ask, events, listening, refusal, settings
from scripted import ScriptedEngine
from starlette.testclient import TestClient

from chat_templates import TEMPLATES
from pillion.backends.fake import FakeBackend
from pillion.core import Turn
from pillion.runtime import PlainEngine
from pillion.serve import make_policies
from tiny_models import make_artefact

openai = pytest.importorskip("openai", reason="the openai package is not installed")

PATH = "/v1/responses"
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
TOOLS: list[Any] = [{"type": "function", **FUNCTION}]
WORDS = (
    "I look.",
    "\n<tool_call>",
    '{"name": "weather", "arguments": {"city": "K"}}',
    "</tool_call>",
)
SCHEMA = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}


def calling(**facts: Any) -> ScriptedEngine:
    return ScriptedEngine(**{"words": WORDS, "chat_template": TEMPLATES["hermes-tools"], **facts})


def body(**facts: Any) -> dict[str, Any]:
    return {"model": "m", "input": "hello", **facts}


def respond(client: TestClient, **facts: Any) -> Any:
    answer = client.post(PATH, json=body(**facts))
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(client: TestClient, **facts: Any) -> list[Any]:
    answer = client.post(PATH, json=body(stream=True, **facts))
    assert answer.status_code == 200, answer.text
    found = events(answer.text)
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def test_a_response_says_what_the_chat_says(client: TestClient) -> None:
    got = respond(client, max_output_tokens=8, temperature=0.0, instructions="Be short.")
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "hello"},
    ]
    chat = ask(client, max_tokens=8, temperature=0, messages=messages)
    (message,) = got["output"]
    assert message["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert got["verdicts"] == chat["verdicts"]
    assert got["status"] == message["status"] == "incomplete"
    assert got["incomplete_details"] == {"reason": "max_output_tokens"} and got["store"] is False
    assert got["usage"]["total_tokens"] == chat["usage"]["total_tokens"]


def test_events_add_up_to_the_response() -> None:
    with application(calling()) as client:
        whole = respond(client, tools=TOOLS)
        found = streamed(client, tools=TOOLS)
    kinds = [event["type"].removeprefix("response.") for event in found]
    text, call = "output_text", "function_call_arguments"
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added", f"{text}.delta"),
        *(f"{text}.done", "content_part.done", "output_item.done"),
        *("output_item.added", f"{call}.delta", f"{call}.done", "output_item.done", "completed"),
    ]
    last = found[-1]["response"]
    items = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert last["output"] == items and last["usage"] == whole["usage"]
    assert last["verdicts"] == whole["verdicts"] and last["verdicts"]["response"]["p"]["label"]
    assert found[0]["response"]["verdicts"]["prompt"] == whole["verdicts"]["prompt"]
    assert found[4]["verdicts"].keys() == {"response", "response_tokens"}
    hidden = {"id", "call_id"}
    assert [{k: v for k, v in item.items() if k not in hidden} for item in items] == [
        {k: v for k, v in item.items() if k not in hidden} for item in whole["output"]
    ]
    assert whole["output"][1]["name"] == "weather" and whole["output"][0]["status"] == "completed"


def test_an_empty_answer_is_an_empty_message() -> None:
    with application(ScriptedEngine(words=())) as client:
        whole, found = respond(client), streamed(client)
    for response in (whole, found[-1]["response"]):
        (message,) = response["output"]
        assert message["content"][0]["text"] == "" and response["status"] == "completed"


def test_items_become_turns() -> None:
    engine = calling(words=("Warm.",))
    items = [
        {"role": "developer", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "War"},
                {"type": "input_text", "text": "m?"},
            ],
        },
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "weather",
            "arguments": '{"a": 1}',
            "id": "fc_1",
            "status": "completed",
        },
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "17"},
        {"type": "function_call_output", "call_id": "c2", "output": "18"},
    ]
    with application(engine) as client:
        respond(client, input=items, instructions="You are here.", tools=TOOLS)
    turns, tools = engine.asked[-1]
    assert [(turn.role, turn.content) for turn in turns] == [
        ("system", "You are here."),
        ("system", "Be short."),
        ("user", "Warm?"),
        ("assistant", "I look."),
        ("tool", "17"),
        ("tool", "18"),
    ]
    calls = turns[3].more["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == [{"a": 1}, {}]
    assert turns[4] == Turn("tool", "17", {"tool_call_id": "c1"})
    assert tools == ({"type": "function", "function": FUNCTION},)


def test_policies_act_on_responses() -> None:
    rule = {"probe": "p", "action": "block", "fail": "open", "refusal": "No."}
    chosen = settings(policies=make_policies({"policies": [rule]}))
    with application(ScriptedEngine(prompt_score=0.9), chosen) as client:
        whole, found = respond(client), streamed(client)
    for response in (whole, found[-1]["response"]):
        assert response["output"][0]["content"][0]["text"] == "No."
        assert response["incomplete_details"] == {"reason": "content_filter"}
        assert response["verdicts"]["prompt"]["p"]["decision"] == "block"
    assert found[-1]["type"] == "response.incomplete"


def test_a_stream_that_another_server_would_answer_is_refused() -> None:
    rule = {"probe": "p", "action": "route", "fail": "open", "upstream": "u", "threshold": 0.0}
    upstream = {"url": "https://u.example/v1", "model": "u"}
    policies = make_policies({"policies": [rule], "upstreams": {"u": upstream}})
    with application(ScriptedEngine(), settings(policies=policies)) as client:
        error = refusal(client, PATH, body(stream=True))
    assert error["code"] == "cannot_route" and "without stream" in error["message"]


@pytest.mark.parametrize(
    ("facts", "param", "message"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "no support"),
        ({"background": True}, "background", "no support"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": [{"type": "image"}]}, "input.0", "an item is a message"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", "store: false"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input.0.message.content",
            "only parts of the types",
        ),
        ({"inputs": "x"}, "inputs", "'input'"),
        ({"max_output_tokens": 5000}, "max_output_tokens", "gives up to 4,096"),
        ({"max_output_tokens": 600}, "input", "context is 512 tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "'function'"),
        ({"tools": TOOLS}, "tools", "takes no tools"),
        ({"tool_choice": "must"}, "tool_choice", "'required'"),
        ({"tool_choice": "required"}, None, "there are none"),
        ({"text": {"format": {"type": "json_schema"}}}, "text", "valid dictionary"),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": "nope"}}}}, "text", "nope"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(
    client: TestClient, facts: dict[str, Any], param: str | None, message: str
) -> None:
    error = refusal(client, PATH, body(**facts))
    assert error["param"] == param and message in error["message"]


# -- OpenAI's own client


@pytest.fixture(scope="module")
def theirs() -> Generator[Any]:
    backend = FakeBackend()
    with (
        listening(PlainEngine(backend, [make_artefact("p", backend.identity)])) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="sk-test", max_retries=0) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def theirs_calling() -> Generator[Any]:
    with (
        listening(calling()) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="sk-test", max_retries=0) as made,
    ):
        yield made


def strict(answer: Any) -> Any:
    """The same answer, parsed with every field checked: the client itself forgives."""
    return type(answer).model_validate(json.loads(answer.to_json()))


def test_the_client_parses_responses_and_events(theirs: Any, theirs_calling: Any) -> None:
    answer = theirs.responses.create(model="m", input="hello", max_output_tokens=6)
    assert strict(answer).output_text and answer.verdicts["prompt"]["p"]["label"]
    called = strict(theirs_calling.responses.create(model="m", input="hello", tools=TOOLS))
    assert called.output[1].name == "weather" and called.output_text == "I look."
    for client, facts in ((theirs, {}), (theirs_calling, {"tools": TOOLS})):
        found = list(
            client.responses.create(
                model="m", input="hello", max_output_tokens=6, stream=True, **facts
            )
        )
        assert [strict(event).type for event in found][-1].startswith("response.")
        assert found[-1].response.verdicts["prompt"]["p"]["label"]


def test_the_clients_own_gathering_of_events_works(theirs_calling: Any) -> None:
    with theirs_calling.responses.stream(model="m", input="hello", tools=TOOLS) as stream:
        for _ in stream:
            pass
        gathered = stream.get_final_response()
    assert gathered.output_text == "I look."
    assert json.loads(gathered.output[1].arguments) == {"city": "K"}


def test_the_client_parses_json_of_a_schema_in_both_interfaces(theirs: Any) -> None:
    wanted = {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}
    answer = theirs.responses.create(model="m", input="hello", text={"format": wanted})
    assert json.loads(answer.output_text)["n"] in (1, 2)
    messages: Any = [{"role": "user", "content": "hello"}]
    inner = {"name": "x", "schema": SCHEMA, "strict": True}
    chat = theirs.chat.completions.create(
        model="m", messages=messages, response_format={"type": "json_schema", "json_schema": inner}
    )
    assert json.loads(chat.choices[0].message.content)["n"] in (1, 2)

    from pydantic import BaseModel

    class Kind(BaseModel):
        flag: bool

    parsed = theirs.chat.completions.parse(model="m", messages=messages, response_format=Kind)
    assert parsed.choices[0].message.parsed.flag in (True, False)
    again = theirs.responses.parse(model="m", input="hello", text_format=Kind)
    assert again.output_parsed.flag in (True, False)


def test_the_client_calls_tools_in_chats(theirs_calling: Any) -> None:
    tools = [{"type": "function", "function": FUNCTION}]
    messages: Any = [{"role": "user", "content": "hello"}]
    answer = theirs_calling.chat.completions.create(model="m", messages=messages, tools=tools)
    choice = strict(answer).choices[0]
    assert choice.finish_reason == "tool_calls"
    with theirs_calling.chat.completions.stream(
        model="m", messages=messages, tools=tools
    ) as stream:
        for _ in stream:
            pass
        gathered = stream.get_final_completion().choices[0].message
    assert gathered.tool_calls[0].function.arguments == '{"city": "K"}'
    # An answer goes back as it came, with what the tool has said.
    result = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "17"}
    back = [*messages, choice.message.model_dump(exclude_none=True), result]
    assert theirs_calling.chat.completions.create(model="m", messages=back, tools=tools).choices
