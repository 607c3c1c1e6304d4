"""Verdicts on their way into what a server sends; an application of our own stands for vLLM's."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from pillion.core import ModelIdentity
from pillion.policies import make_policies
from pillion.riding.bodies import add_verdicts
from pillion.riding.latest_logits import KEY
from pillion.riding.metrics import UNREAD, VERDICTS
from pillion.riding.middleware import VerdictMiddleware
from pillion.riding.request_verdicts import RequestVerdicts
from pillion.vllm.guard import MARK
from pillion.vllm.http_outputs import listen
from tiny_models import make_artefact

IDENTITY = ModelIdentity("none", "w", "t", "c", 4, 16, "float32", 4096)
PROBES = tuple(make_artefact(name, IDENTITY) for name in ("one", "two"))
HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}


class Engine:
    """Says of prompt i that its logit is i, and of its answers i + 0.1, i + 0.2 and so on."""

    async def generate(self, prompt: int, params: Any, name: str) -> AsyncGenerator[Any]:
        for count in (1, 2):
            answers = {
                str(c): {"response": numbers(prompt + (c + 1) / 10), "read": count}
                for c in range(params.n)
            }
            found = {"prompt": numbers(prompt), "seconds": 0.0, **answers["0"]}
            found |= {"choices": answers} if params.n > 1 else {}
            yield SimpleNamespace(kv_transfer_params={KEY: found, "other": 1}, outputs=[])
        yield SimpleNamespace(kv_transfer_params=None, outputs=[])


def numbers(logit: float) -> dict[str, list[float]]:
    return {probe.name: [float(logit)] for probe in PROBES}


def application(sent: Callable[[Request, Any], Any]) -> FastAPI:
    app, engine = FastAPI(), Engine()
    app.state.pillion_probes, app.state.params = PROBES, []
    listen(engine)

    @app.post("/{path:path}")
    async def route(request: Request) -> Any:
        body = await request.json()

        async def outputs() -> AsyncGenerator[None]:
            for prompt in range(body.get("prompts", 1)):
                params = SimpleNamespace(n=body.get("n", 1))
                async for output in engine.generate(prompt, params, "r"):
                    app.state.params.append(output.kv_transfer_params)
                    yield

        return await sent(request, outputs())

    app.add_middleware(VerdictMiddleware)
    return app


def post(app: FastAPI, **body: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            return await client.post("/v1/some", json=body)

    return asyncio.run(ask())


def whole(body: dict[str, Any]) -> FastAPI:
    async def sent(_: Request, outputs: Any) -> JSONResponse:
        async for _ in outputs:
            pass
        return JSONResponse(body)

    return application(sent)


def stream(*events: str, kind: str = "text/event-stream", cut: int = 10**6) -> FastAPI:
    """An event before the engine says something, one after each output, the rest at the end."""

    async def sent(_: Request, outputs: Any) -> StreamingResponse:
        async def pieces() -> AsyncGenerator[str]:
            waiting = list(events)
            yield waiting.pop(0)
            async for _ in outputs:
                if len(waiting) > 1:
                    yield waiting.pop(0)
            for event in waiting:
                for at in range(0, len(event), cut):
                    yield event[at : at + cut]

        return StreamingResponse(pieces(), media_type=kind)

    return application(sent)


def logit(verdicts: Any, part: str = "prompt") -> float:
    p = verdicts[part]["one"]["probs"]["yes"]
    return round(math.log(p / (1 - p)), 3)


def test_answers_of_every_prompt_have_verdicts_of_their_own_and_logits_stay() -> None:
    app = whole({"choices": [{"index": i} for i in range(4)], "kept": "ü"})
    answer = post(app, prompts=2, n=2)
    body = answer.json()
    assert int(answer.headers["content-length"]) == len(answer.content)
    told = [choice["verdicts"] for choice in body["choices"]]
    assert [logit(verdicts) for verdicts in told] == [0, 0, 1, 1]
    assert [logit(v, "response") for v in told] == [0.1, 0.2, 1.1, 1.2]
    assert body["verdicts"] == told[0] and body["kept"] == "ü"
    assert set(told[0]) == {"prompt", "response", "response_tokens"}
    assert app.state.params == [*[{"other": 1}] * 2, None] * 2


@pytest.mark.parametrize("body", [{"object": "response"}, {"type": "message", "content": []}])
def test_a_response_or_a_message_has_those_of_its_last_round(body: dict[str, Any]) -> None:
    told = post(whole(body), prompts=3).json()
    assert logit(told.pop("verdicts")) == 2 and told == body


@pytest.mark.parametrize("body", [{"data": []}, [1], "text", {"error": {"code": 500}}])
def test_a_body_of_another_kind_is_left_as_it_is(body: Any) -> None:
    assert post(whole(body)).json() == body


def test_a_body_before_which_the_engine_was_not_asked_is_left_as_it_is() -> None:
    assert post(whole({"choices": []}), prompts=0).json() == {"choices": []}


def test_a_response_that_only_begins_has_no_verdicts_and_one_given_up_says_so() -> None:
    request = RequestVerdicts(PROBES)
    request.begin(1)
    assert "given up" in request.last()["error"] and not request.has_read
    assert add_verdicts(request, b'{"object": "response"}') == b'{"object": "response"}'
    assert "given up" in json.loads(add_verdicts(request, b'{"choices": []}'))["verdicts"]["error"]


def events_of(answer: httpx.Response) -> list[Any]:
    datas = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(data) if data != "[DONE]" else data for data in datas]


@pytest.mark.parametrize("cut", [1, 7, 10**6])
def test_a_stream_tells_of_the_prompt_before_its_text_and_of_all_at_its_end(cut: int) -> None:
    texts = [f"data: {json.dumps({**HEAD, 'choices': [{'text': t}]})}\n\n" for t in "abc"]
    app = stream(": keep-alive\n\n", *texts, "data: [DONE]\n\n", cut=cut)
    first, *said, last, end = events_of(post(app, n=2))
    assert end == "[DONE]" and [one["choices"][0]["text"] for one in said] == list("abc")
    assert first["choices"] == [] and logit(first["verdicts"]) == 0
    assert {name: last[name] for name in HEAD} == HEAD
    assert [logit(c["verdicts"], "response") for c in last["choices"]] == [0.1, 0.2]
    assert [c["index"] for c in last["choices"]] == [0, 1]
    assert last["choices"][0]["delta"] == {} and last["verdicts"] == last["choices"][0]["verdicts"]


@pytest.mark.parametrize(
    ("kinds", "inner"),
    [
        (["response.created", "response.output_text.delta", "response.completed"], "response"),
        (["ping", "message_start", "content_block_delta", "message_delta"], None),
    ],
)
def test_events_with_a_type_carry_verdicts_and_stay_as_many(
    kinds: list[str], inner: str | None
) -> None:
    contents = [{"type": kind} | ({inner: {"id": 1}} if inner else {}) for kind in kinds]
    app = stream(*(f"event: {c['type']}\ndata: {json.dumps(c)}\n\n" for c in contents))
    begun, first, *between, last = events_of(post(app))
    assert begun == contents[0] and between == contents[2:-1]
    assert logit(first["verdicts"]) == 0
    told = last[inner] if inner else last
    assert logit(told["verdicts"], "response") == 0.1


def test_other_streams_and_errors_pass() -> None:
    for events, kind in (
        (("a\n\n", "b", "c"), "text/plain"),
        (("data: x\n\n", "event: odd\ndata: no json\n\n", "data: [DONE]\n\n"), "text/event-stream"),
        (("data: x\n\n", 'data: {"error": {}}\n\n', "data: unended"), "text/event-stream"),
    ):
        assert post(stream(*events, kind=kind)).text == "".join(events)


def test_a_stream_goes_on_where_the_second_prompt_is_heard_of_first() -> None:
    """The bug: the first prompt's verdicts were asked for before it was read; the stream broke."""
    app, engine = FastAPI(), Engine()
    app.state.pillion_probes = PROBES
    listen(engine)

    @app.post("/v1/some")
    async def route() -> StreamingResponse:
        asked = [engine.generate(prompt, SimpleNamespace(n=1), "r") for prompt in (0, 1)]

        async def pieces() -> AsyncGenerator[str]:
            for prompt in (1, 0):
                async for _ in asked[prompt]:
                    yield f"data: {json.dumps({**HEAD, 'choices': [{'index': prompt}]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    app.add_middleware(VerdictMiddleware)
    *second, of_first, _, _, _, last, _ = events_of(post(app))
    assert [one["choices"][0]["index"] for one in second] == [1, 1, 1]
    assert of_first["choices"] == [] and logit(of_first["verdicts"]) == 0
    assert [logit(choice["verdicts"]) for choice in last["choices"]] == [0, 1]


def test_beam_search_passes_without_verdicts_and_says_why() -> None:
    """The bug: it was a 500."""
    app = whole({"choices": [{"index": 0}]})
    told = post(app, use_beam_search=True, prompts=5).json()["verdicts"]
    assert told["prompt"]["one"]["label"] is None
    assert "beam search" in told["prompt"]["one"]["reason"]


def test_a_client_chooses_probes_and_gets_logits_only_if_it_asks() -> None:
    app = whole({"choices": [{"index": i} for i in range(2)]})
    body = post(app, n=2, pillion={"probes": ["two"], "logits": True}).json()
    told = body["choices"][1]["verdicts"]
    assert set(told["prompt"]) == set(told["response"]) == {"two"}
    assert told["logits"] == {"prompt": {"two": [0.0]}, "response": {"two": [0.2]}}
    assert post(app, n=2, pillion={"probes": []}).json() == {
        "choices": [{"index": 0}, {"index": 1}]
    }
    assert app.state.params[-2] == {"other": 1}


def filtered(monkeypatch: pytest.MonkeyPatch, refusal: str | None = "No.") -> None:
    """The engine ends every answer as a policy would have it."""
    plain = Engine.generate

    async def generate(self: Engine, prompt: int, params: Any, name: str) -> AsyncGenerator[Any]:
        async for output in plain(self, prompt, params, name):
            if output.kv_transfer_params:
                said = {} if refusal is None else {"refusal": refusal}
                output.kv_transfer_params[KEY] |= said
                output.outputs = [SimpleNamespace(stop_reason=MARK, text="", finish_reason="stop")]
                (answer,) = output.outputs
            yield output
        assert (answer.finish_reason, answer.stop_reason) == ("content_filter", None)
        assert answer.text == (refusal or "")

    monkeypatch.setattr(Engine, "generate", generate)


@pytest.mark.parametrize("wish", [{}, {"pillion": {"probes": []}}])
def test_a_refusal_is_the_content_whatever_parsers_made_of_it(
    monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]
) -> None:
    filtered(monkeypatch)
    policies = make_policies({"policies": [{"probe": "one", "action": "annotate"}]})
    thought = {"content": None, "reasoning": "No.", "role": "assistant"}
    called = {"content": "", "tool_calls": [{"function": {"arguments": "No."}}]}
    for made in (thought, called):
        app = whole({"choices": [{"index": 0, "message": made}]})
        app.state.pillion_policies = policies
        body = post(app, **wish).json()
        said = body["choices"][0]["message"]
        assert said["content"] == "No." and not said.keys() & {"reasoning", "tool_calls"}
        assert ("verdicts" in body) is (not wish)
        deltas = [made, {"content": ""}]
        chunks = [f"data: {json.dumps({**HEAD, 'choices': [{'delta': d}]})}\n\n" for d in deltas]
        app = stream(": keep-alive\n\n", *chunks, "data: [DONE]\n\n")
        app.state.pillion_policies = policies
        got = [
            event["choices"][0] for event in events_of(post(app, **wish))[:-1] if event["choices"]
        ]
        assert [choice["delta"].get("content") for choice in got] == ["No.", ""]
        assert not any(c["delta"].keys() & {"reasoning", "tool_calls"} for c in got)


def test_a_response_or_a_message_that_was_ended_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    filtered(monkeypatch, None)
    response = {"object": "response", "status": "completed", "incomplete_details": None}
    body = post(whole(response)).json()
    assert (body["status"], body["incomplete_details"]["reason"]) == (
        "incomplete",
        "content_filter",
    )
    assert post(whole({"type": "message", "stop_reason": None})).json()["stop_reason"] == "refusal"
    end = {"type": "response.completed", "response": response}
    app = stream(": begin\n\n", f"event: response.completed\ndata: {json.dumps(end)}\n\n")
    answer = post(app)
    (event,) = events_of(answer)
    assert "event: response.incomplete\n" in answer.text
    assert event["type"] == "response.incomplete" and event["response"]["status"] == "incomplete"
    delta = {"type": "message_delta", "delta": {"stop_reason": None}}
    app = stream(": begin\n\n", f"event: message_delta\ndata: {json.dumps(delta)}\n\n")
    assert events_of(post(app))[0]["delta"]["stop_reason"] == "refusal"


def test_what_policies_decide_is_told_and_beams_are_refused() -> None:
    app = whole({"choices": [{"index": 0, "message": {"content": "said"}}]})
    block = {"probe": "one", "action": "block", "fail": "closed", "threshold": 0.5}
    stop = {"probe": "two", "action": "stop", "fail": "open", "threshold": 0.9}
    app.state.pillion_policies = make_policies({"policies": [block, stop]})
    body = post(app, pillion={"probes": ["two"]}).json()
    assert set(body["verdicts"]["prompt"]) == {"two"}
    told = post(app).json()["verdicts"]
    assert told["prompt"]["one"]["decision"] == "block"
    assert told["response"]["two"]["decision"] == told["prompt"]["two"]["decision"] == "allow"
    refused = post(app, use_beam_search=True)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "use_beam_search"


def test_a_body_too_deep_to_be_read_is_the_servers_to_refuse() -> None:
    """The bug: it was a 500 before the server saw it."""
    app = FastAPI()
    app.state.pillion_probes = PROBES

    @app.post("/v1/some")
    async def route(body: dict[str, Any]) -> None: ...

    app.add_middleware(VerdictMiddleware)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            headers = {"content-type": "application/json"}
            return await client.post("/v1/some", content=b"[" * 100_000, headers=headers)

    assert asyncio.run(ask()).status_code == 400


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"probes": ["tow"]}, "Did you mean 'two'"),
        ({"prob": ["two"]}, "Did you mean 'probes'"),
        ({"probes": "two"}, r"pillion\.probes"),
        ({"logits": 1}, r"pillion\.logits"),
        (True, "pillion: "),
    ],
)
def test_wishes_that_mean_nothing_are_a_400(wish: Any, why: str) -> None:
    answer = post(whole({"choices": [{"index": 0}]}), pillion=wish)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "pillion"
    assert re.search(why, answer.json()["error"]["message"])


def counted() -> dict[tuple[str, str, str], float]:
    """Verdicts by probe, part and label; and how many answers had none."""
    (found,), (unread,) = VERDICTS.collect(), UNREAD.collect()
    told = {
        (s.labels["probe"], s.labels["part"], s.labels["label"]): s.value
        for s in found.samples
        if s.name == "pillion_verdicts_total"
    }
    return told | {("", "", ""): unread.samples[0].value}


def test_verdicts_are_counted_whatever_a_client_wants_to_hear() -> None:
    before = counted()
    post(whole({"choices": []}), prompts=2, n=2, pillion={"probes": []})
    post(whole({"choices": [{"index": 0}]}), use_beam_search=True, prompts=3)
    post(stream("data: x\n\n", "data: [DONE]\n\n"))
    more = {key: value - before.get(key, 0) for key, value in counted().items()}
    assert {key: value for key, value in more.items() if value} == {
        **{(probe.name, "prompt", "yes"): 3 for probe in PROBES},
        **{(probe.name, "response", "yes"): 5 for probe in PROBES},
        ("", "", ""): 1,
    }


def test_states_that_are_not_finite_are_told_of_instead_of_a_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{__name__}.numbers", lambda _: {"one": [float("nan")]})
    told = post(whole({"choices": [{"index": 0}]})).json()["verdicts"]
    assert "not finite" in told["error"]
