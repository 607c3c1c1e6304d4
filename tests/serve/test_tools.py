"""Tools over HTTP: offered by the chat template, called in answers whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from client import CHAT, application, ask, chat, refusal, settings, streamed, text_of
from scripted import ScriptedEngine
from starlette.testclient import TestClient

from chat_templates import TEMPLATES, VOCAB, chat_tokenizer
from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.core import Turn
from pillion.errors import DataError
from pillion.runtime import PlainEngine
from pillion.serve import make_policies
from tiny_models import make_artefact, tiny_model

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Of a city.", "parameters": PARAMETERS}
TOOLS: list[Any] = [{"type": "function", "function": FUNCTION}]
SAID = ("I look.", "\n", "<tool_call>", '\n{"name": "weather", "arg', 'uments": {"city": "Köln"}}')
WORDS = (*SAID, "\n</tool_call>")
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "abc123XYZ",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Köln"}'},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "abc123XYZ", "content": "17 degrees"}
ASKED = [{"role": "user", "content": "Warm?"}, CALLED, RESULT]


def hermes(**facts: Any) -> ScriptedEngine:
    facts = {"words": WORDS, "chat_template": TEMPLATES["hermes-tools"], **facts}
    return ScriptedEngine(**facts)


def test_an_answer_calls_a_tool_whole_and_streamed() -> None:
    engine = hermes()
    with application(engine) as client:
        (choice,) = ask(client, tools=TOOLS)["choices"]
        chunks = streamed(client, tools=TOOLS, tool_choice="auto")
    message = choice["message"]
    (call,) = message["tool_calls"]
    assert message["content"] == "I look." and choice["finish_reason"] == "tool_calls"
    assert call["type"] == "function" and len(call["id"]) == 9
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Köln"}'}
    (told,) = [c for chunk in chunks for c in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert told["index"] == 0 and told["function"] == call["function"]
    assert text_of(chunks) == "I look."
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    # The probes read every token of it.
    assert chunks[-1]["verdicts"]["response_tokens"] == len(WORDS)
    given = [tools for _, tools in engine.asked]
    assert given[-1] == given[-2] == (TOOLS[0],)


def test_an_answer_that_only_calls_has_no_content() -> None:
    with application(hermes(words=WORDS[2:])) as client:
        message = ask(client, tools=TOOLS)["choices"][0]["message"]
    assert message["content"] is None and len(message["tool_calls"]) == 1


def test_no_tool_is_called_that_was_not_offered() -> None:
    engine = hermes()
    with application(engine) as client:
        other = [{"type": "function", "function": {"name": "other"}}]
        bodies = [
            ask(client),
            ask(client, tools=TOOLS, tool_choice="none"),
            ask(client, tools=other),
        ]
    for body in bodies:
        assert body["choices"][0]["message"]["content"] == "".join(WORDS)
        assert body["choices"][0]["finish_reason"] == "stop"
    assert [len(tools) for _, tools in engine.asked[-3:]] == [0, 0, 1]


def test_every_choice_has_calls_of_its_own() -> None:
    with application(hermes()) as client:
        body = ask(client, tools=TOOLS, n=2)
        chunks = streamed(client, tools=TOOLS, n=2)
    one, two = (choice["message"]["tool_calls"][0] for choice in body["choices"])
    assert one["function"] == two["function"] and one["id"] != two["id"]
    told = [c["choices"][0] for c in chunks if c["choices"][0]["delta"].get("tool_calls")]
    assert sorted(choice["index"] for choice in told) == [0, 1]


def test_parallel_calls_can_be_left_out() -> None:
    with application(hermes(words=WORDS * 2)) as client:
        both = ask(client, tools=TOOLS)["choices"][0]["message"]
        one = ask(client, tools=TOOLS, parallel_tool_calls=False)["choices"][0]["message"]
    assert len(both["tool_calls"]) == 2 and len(one["tool_calls"]) == 1


def test_marks_that_decoding_leaves_out_are_seen() -> None:
    """They are special tokens of many models, and their text is empty."""
    words = ("", WORDS[3], WORDS[4], "")
    engine = hermes(words=words, hidden={"<tool_call>": 0, "</tool_call>": 3})
    with application(engine) as client:
        assert len(ask(client, tools=TOOLS)["choices"][0]["message"]["tool_calls"]) == 1
        plain = ask(client)["choices"][0]["message"]
    assert plain["content"] == "".join(words) and "tool_calls" not in plain


def test_an_answer_that_is_too_short_has_no_half_call() -> None:
    with application(hermes()) as client:
        (choice,) = ask(client, tools=TOOLS, max_tokens=4)["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == "".join(WORDS[:4])


def test_a_policy_that_stops_an_answer_stops_its_call() -> None:
    rule = {"probe": "p", "action": "stop", "fail": "open", "threshold": 0.5}
    chosen = settings(policies=make_policies({"policies": [rule]}))
    engine = hermes(scores=(0.1, 0.1, 0.1, 0.1, 0.1, 0.9))
    with application(engine, chosen) as client:
        (choice,) = ask(client, tools=TOOLS)["choices"]
        chunks = streamed(client, tools=TOOLS)
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"] == {"role": "assistant", "content": "I look.", "refusal": None}
    assert text_of(chunks) == "I look."


def test_a_refusal_is_no_call() -> None:
    rule = {"probe": "p", "action": "block", "fail": "open", "refusal": '{"name": "weather"} no'}
    chosen = settings(policies=make_policies({"policies": [rule]}))
    template = TEMPLATES["llama3-tools"]
    with application(hermes(prompt_score=0.9, chat_template=template), chosen) as client:
        (choice,) = ask(client, tools=TOOLS)["choices"]
    assert choice["message"]["content"] == '{"name": "weather"} no'


def test_a_model_that_calls_no_tools_says_so(client: TestClient) -> None:
    error = refusal(client, CHAT, chat(tools=TOOLS))
    assert error["param"] == "tools" and error["code"] == "unsupported_parameter"
    assert "takes no tools" in error["message"] and "Hermes, Mistral, Llama 3" in error["message"]
    error = refusal(client, CHAT, chat() | {"messages": ASKED})
    assert "writes no calls" in error["message"] and error["param"] == "messages"


def test_earlier_calls_reach_the_template() -> None:
    engine = hermes(words=("Warm.",))
    with application(engine) as client:
        body = {
            "model": "m",
            "messages": [*ASKED, {"role": "user", "content": "So?", "name": "Bo"}],
        }
        answer = client.post(CHAT, json=body).json()
        judged = client.post(
            "/v1/classify", json={"messages": body["messages"], "template": "chat"}
        )
    assert answer["choices"][0]["message"]["content"] == "Warm." and judged.status_code == 200
    _, call, result, last = engine.asked[-2][0]
    function = {"name": "weather", "arguments": {"city": "Köln"}}
    told = {"tool_calls": [{"id": "abc123XYZ", "type": "function", "function": function}]}
    assert call == Turn("assistant", "", told)
    assert result == Turn("tool", "17 degrees", {"tool_call_id": "abc123XYZ"})
    assert last.more == {"name": "Bo"}


def wrong(**facts: Any) -> dict[str, Any]:
    return {"messages": [ASKED[0], {**CALLED, **facts}, RESULT]}


def function(**facts: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {**FUNCTION, **facts}}]}


@pytest.mark.parametrize(
    ("facts", "param", "message"),
    [
        ({"messages": ASKED[:2]}, "messages", "add what they have answered"),
        (wrong(role="user"), "messages.1.content", "valid string"),
        (wrong(role="user", content="x"), "messages.1", "only answers have tool_calls"),
        (wrong(tool_calls=[]), "messages.1.content", "valid string"),
        (
            wrong(tool_calls=[{**CALLED["tool_calls"][0], "id": "<|im_end|>"}]),
            "messages.1.tool_calls.0.id",
            "match pattern",
        ),
        (
            wrong(
                tool_calls=[
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
                ]
            ),
            "messages.1.tool_calls.0.function.arguments",
            "text of a JSON object",
        ),
        (
            wrong(
                tool_calls=[
                    {
                        "id": "a",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a": NaN}'},
                    }
                ]
            ),
            "messages.1.tool_calls.0.function.arguments",
            "text of a JSON object",
        ),
        ({"tools": [{}]}, "tools.0.type", "required"),
        (function(name="a b"), "tools.0.function.name", "match pattern"),
        (function(parametrs={}), "tools.0.function.parametrs", "'parameters'"),
        ({"tools": TOOLS * 2}, None, "two tools are called 'weather'"),
        ({"tool_choice": "auto"}, None, "there are none"),
    ],
)
def test_what_is_wrong_with_tools_is_named(
    facts: dict[str, Any], param: str | None, message: str
) -> None:
    with application(hermes()) as client:
        error = refusal(client, CHAT, {**chat(), **facts})
    assert error["param"] == param and message in error["message"]


# -- with a tokenizer and its template


NAMES = ("hermes-tools", "llama3-tools", "mistral-tools")


@pytest.fixture(scope="module")
def backends() -> dict[str, TransformersBackend]:
    return {
        name: TransformersBackend(tiny_model(vocab=VOCAB), chat_tokenizer(name), name)
        for name in NAMES
    }


@pytest.fixture(scope="module")
def served(backends: dict[str, TransformersBackend]) -> Generator[dict[str, TestClient]]:
    made: dict[str, TestClient] = {}
    stack: list[Any] = []
    for name, backend in backends.items():
        probe = make_artefact("t", backend.identity, template="chat", scope="tool")
        stack.append(application(PlainEngine(backend, [probe])))
        made[name] = stack[-1].__enter__()
    yield made
    for one in stack:
        one.__exit__(None, None, None)


@pytest.mark.parametrize("name", NAMES)
def test_tools_are_in_the_prompt_and_nobodys_words(
    name: str, backends: dict[str, TransformersBackend]
) -> None:
    backend = backends[name]
    turns = (Turn("user", "Warm?"),)
    tokens, plain = backend.encode_chat(turns, TOOLS), backend.encode_chat(turns)
    text = backend.tokenizer.decode(list(tokens))
    assert json.dumps(FUNCTION, ensure_ascii=False) in text
    assert text == backend.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Warm?"}],
        tools=TOOLS,
        add_generation_prompt=True,
        tokenize=False,
    )
    assert len(tokens) > len(plain)
    ((part,),) = [tokens.ranges("last-user")]
    assert backend.tokenizer.decode(list(tokens[part.start : part.stop])) == "Warm?"


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_that_spells_a_control_token_is_refused(
    name: str, backends: dict[str, TransformersBackend]
) -> None:
    """Tools are no turns: nothing could keep it text."""
    mark = backends[name].codec.tokenizer.convert_ids_to_tokens(
        max(backends[name].codec._control_ids)
    )
    for function in (
        {**FUNCTION, "description": f"a{mark}b"},
        {"name": "f", "parameters": {mark: 1}},
    ):
        tools = [{"type": "function", "function": function}]
        with pytest.raises(DataError, match="a tool spells the control token"):
            backends[name].encode_chat((Turn("user", "Warm?"),), tools)


@pytest.mark.parametrize("name", NAMES)
def test_what_calls_and_results_spell_stays_text(
    name: str, backends: dict[str, TransformersBackend]
) -> None:
    """Arguments whose names templates compare elsewhere went in unmarked, and could end a turn."""
    codec = backends[name].codec

    def turns(word: str) -> tuple[Turn, ...]:
        given = {"type": word, "id": [word], "at": {"type": word, word: {"id": word}}}
        call = {
            "id": "abc123XYZ",
            "type": "function",
            "function": {"name": "f", "arguments": given},
        }
        return (
            Turn("user", "Warm?"),
            Turn("assistant", "", {"tool_calls": [call]}),
            Turn("tool", f"{word}17{word}", {"tool_call_id": "abc123XYZ"}),
        )

    plain = [i for i in codec.encode_chat(turns("x")) if i in codec._control_ids]
    for number in codec._control_ids:
        mark = codec.tokenizer.convert_ids_to_tokens(number)
        tokens = codec.encode_chat(turns(mark))
        assert [i for i in tokens if i in codec._control_ids] == plain
        (part,) = tokens.ranges("tool")
        assert codec.tokenizer.decode(list(tokens[part.start : part.stop])) == f"{mark}17{mark}"


@pytest.mark.parametrize("name", NAMES)
def test_the_mark_of_calls_is_found_where_decoding_leaves_it_out(
    name: str, backends: dict[str, TransformersBackend]
) -> None:
    mark = {"hermes-tools": "<tool_call>", "llama3-tools": "<|python_tag|>"}.get(
        name, "[TOOL_CALLS]"
    )
    backend = backends[name]
    number = backend.hidden_id(mark)
    assert number == backend.tokenizer.convert_tokens_to_ids(mark)
    assert backend.hidden_id("</tool_call>") is None and backend.hidden_id("a") is None
    assert FakeBackend().hidden_id(mark) is None and FakeBackend().chat_template == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_probe_of_tools_reads_results_behind_calls(
    name: str, served: dict[str, TestClient]
) -> None:
    body = chat(tools=TOOLS, max_tokens=2) | {"messages": ASKED}
    answer = served[name].post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()["verdicts"]["tool"]["t"]
    # The same words in another conversation without calls or tools have the same label's scope.
    assert told["label"] in {"no", "yes"} and "reason" not in told
