"""Answers of a wanted form over HTTP: JSON, schemas, tools that must be called."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

import pytest
import torch
from client import CHAT, application, ask, chat, refusal, settings, streamed, text_of
from scripted import ScriptedEngine

from chat_templates import TEMPLATES, VOCAB, chat_tokenizer
from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.runtime import ContinuousEngine, PagedSettings, PlainEngine, Sampler, Sampling
from pillion.serve.service import Service
from pillion.serve.tool_calls import FORMS, CallReader
from pillion.serve.wanted_form import calls_form
from tiny_models import make_artefact, tiny_model

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/few"}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"few": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}},
}
FUNCTION = {"name": "f", "parameters": SCHEMA}
TOOLS: list[Any] = [
    {"type": "function", "function": FUNCTION},
    {"type": "function", "function": {"name": "g"}},
]


def schema_format(**facts: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, **facts}}


def check(text: str) -> None:
    said = json.loads(text)
    assert list(said) == ["a", "b"] and isinstance(said["b"], bool)
    assert len(said["a"]) <= 2 and set(said["a"]) <= {1, 2}


def test_an_answer_is_of_the_schema_whole_and_streamed() -> None:
    backend = FakeBackend()
    with application(PlainEngine(backend, [make_artefact("p", backend.identity)])) as client:
        for seed in range(4):
            facts: dict[str, Any] = {"response_format": schema_format(strict=True), "seed": seed}
            body, chunks = ask(client, **facts), streamed(client, **facts)
            text = body["choices"][0]["message"]["content"]
            check(text)
            assert text_of(chunks) == text
            assert body["choices"][0]["finish_reason"] == "stop"
            assert body["verdicts"]["response"]["p"]["label"] in {"no", "yes"}
        body = ask(client, response_format={"type": "json_object"}, seed=1, max_tokens=400)
        assert isinstance(json.loads(body["choices"][0]["message"]["content"]), dict)
        two = ask(client, response_format=schema_format(), n=2, seed=5)["choices"]
        for choice in two:
            check(choice["message"]["content"])


def test_neighbours_in_a_step_are_left_alone() -> None:
    """Of two answers side by side one has a form; the other is what it is by itself."""
    tokenizer = chat_tokenizer("chatml")
    tokenizer.eos_token = "<|im_end|>"
    backend = TransformersBackend(tiny_model(vocab=VOCAB), tokenizer, "tiny")
    sizes = PagedSettings(8, 2048, max_chunk_tokens=24, max_requests=8)
    with application(ContinuousEngine(backend, (), sizes)) as client:
        from concurrent.futures import ThreadPoolExecutor

        facts = {"max_tokens": 60, "seed": 3}
        alone = ask(client, **facts)["choices"]
        with ThreadPoolExecutor(3) as pool:
            formed = [
                pool.submit(ask, client, response_format=schema_format(), seed=seed)
                for seed in range(2)
            ]
            beside = pool.submit(ask, client, **facts).result()["choices"]
            texts = [one.result()["choices"][0]["message"]["content"] for one in formed]
    assert beside == alone
    for text in texts:
        check(text)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("most", [1, None])
def test_a_call_that_must_come_comes_in_the_models_form(
    form: Any, hidden: bool, most: int | None
) -> None:
    backend = FakeBackend()
    ids = {form.opening: 256} if hidden and not form.bare else {}
    grammar = calls_form(form, TOOLS, ids, True, most)
    ended = 0
    for seed in range(6):
        said = drawn(backend, grammar, seed, {256: form.opening})
        if said is None:
            continue
        ended += 1
        reader = CallReader(form, ("f", "g"))
        text, calls = reader.add(said)
        more, last = reader.end()
        assert text + more == "" and calls + last
        assert most is None or len(calls + last) == 1
        for call in calls + last:
            if call.name == "f":
                check(call.arguments)
    assert ended


def drawn(backend: FakeBackend, grammar: str, seed: int, marks: dict[int, str]) -> str | None:
    sampler = Sampler(Sampling(1.0, seed=seed), torch.device("cpu"), (), backend.matcher(grammar))
    noise, ids = torch.Generator().manual_seed(seed), list[int]()
    for _ in range(600):
        token = int(sampler(3 * torch.randn(1, backend.vocab_size, generator=noise)))
        if token in backend.end_ids:
            pieces = [bytes([i]) if i < 256 else marks[i].encode() for i in ids]
            return b"".join(pieces).decode()
        ids.append(token)
    return None


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("hidden", [False, True])
def test_where_a_call_may_come_it_has_the_form_and_text_is_free(form: Any, hidden: bool) -> None:
    backend = FakeBackend()
    ids = {form.opening: 256} if hidden and not form.bare else {}
    grammar = calls_form(form, TOOLS, ids, False, None)
    fits = 'f", "' + form.arguments + '": {"a":[],"b":true}}'
    call = '{"name": "' + fits
    inner = f"\n{call}\n{form.closing}" if form.closing else f" [{call}]"
    cases = {
        "Just text, and 1 < 2.": True,
        "": True,
        (call if form.bare else f"{form.opening}{inner}"): True,
        (call if form.bare else f"{form.opening}{inner}").replace("true", "3"): False,
    }
    for text, taken in cases.items():
        assert follows(backend, grammar, text, form.opening, hidden and not form.bare) == taken


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("hidden", [False, True])
def test_beside_tools_an_answer_calls_one_or_has_its_form(form: Any, hidden: bool) -> None:
    backend = FakeBackend()
    ids = {form.opening: 256} if hidden and not form.bare else {}
    answer = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    grammar = calls_form(form, TOOLS, ids, False, None, answer)
    call = '{"name": "g", "' + form.arguments + '": {}}'
    inner = f"\n{call}\n{form.closing}" if form.closing else f" [{call}]"
    cases = {
        '{"n":2}': True,
        (call if form.bare else f"{form.opening}{inner}"): True,
        '{"n":3}': False,
        "Just text.": False,
        "": False,
    }
    for text, taken in cases.items():
        assert follows(backend, grammar, text, form.opening, hidden and not form.bare) == taken


def follows(backend: FakeBackend, grammar: str, text: str, mark: str, hidden: bool) -> bool:
    """Whether a whole answer may be drawn."""
    head, found, rest = text.partition(mark)
    ids = [*head.encode(), *([256] if hidden else mark.encode()), *rest.encode()]
    ids = ids if found else list(text.encode())
    matcher = backend.matcher(grammar)
    for token in (*ids, 257):
        if not torch.isfinite(matcher.bar(torch.zeros(1, 258)))[0, token]:
            return False
        matcher.take(token)
    return True


def submitted(**facts: Any) -> list[str]:
    engine = ScriptedEngine(chat_template=TEMPLATES["hermes-tools"])
    with application(engine) as client:
        ask(client, **facts)
    return [request.grammar for request in engine.submitted]


def test_only_what_asks_for_a_form_has_one() -> None:
    strict = [{"type": "function", "function": {**FUNCTION, "strict": True}}]
    assert (
        submitted() == submitted(tools=TOOLS) == submitted(tools=TOOLS, tool_choice="auto") == [""]
    )
    assert submitted(tools=strict, tool_choice="none") == [""]
    (required,) = submitted(tools=TOOLS, tool_choice="required")
    (named,) = submitted(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "g"}})
    (lazy,) = submitted(tools=strict)
    (both,) = submitted(tools=TOOLS, response_format=schema_format())
    assert '\\"f\\"' in both and "answer: %json" in both and "lazy" not in both
    forced = submitted(tools=TOOLS, tool_choice="required", response_format=schema_format())
    assert forced == [required]  # a call is the answer
    assert '\\"f\\"' in required and '\\"g\\"' in required and "lazy" not in required
    assert '\\"g\\"' in named and '\\"f\\"' not in named and "lazy" in lazy


@pytest.mark.parametrize(
    ("facts", "param", "message"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "which needs it"),
        (
            {"response_format": schema_format(schema={"type": "nope"})},
            "response_format",
            "Invalid type: nope",
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "h"}}},
            None,
            "names 'h', which is no tool",
        ),
        ({"tool_choice": "required"}, None, "there are none"),
    ],
)
def test_what_is_wrong_with_a_form_is_named(
    facts: dict[str, Any], param: str | None, message: str
) -> None:
    with application(ScriptedEngine(chat_template=TEMPLATES["hermes-tools"])) as client:
        error = refusal(client, CHAT, chat(**facts))
    assert error["param"] == param and message in error["message"]


def test_a_server_without_the_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with application(PlainEngine(FakeBackend())) as client:
        error = refusal(client, CHAT, chat(response_format={"type": "json_object"}))
    assert "python -m pip install 'pillion[grammar]'" in error["message"]
    assert error["param"] == "response_format"


def test_grammars_take_no_threads_that_others_wait_for() -> None:
    """A few large schemas held up all that runs beside the event loop."""
    engine, go_on = ScriptedEngine(), threading.Event()
    engine.check_grammar = lambda grammar: bool(go_on.wait(30))  # type: ignore[method-assign]
    service = Service(engine, settings())

    async def use() -> None:
        waiting = [asyncio.create_task(service.check_grammar("g")) for _ in range(99)]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                await asyncio.to_thread(int)
        finally:
            go_on.set()
        await asyncio.gather(*waiting)
        await service.close()

    asyncio.run(use())
