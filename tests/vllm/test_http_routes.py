"""Every route of `vllm serve` that answers a conversation tells the same verdicts."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from riding import ProbedModel

from pillion.core import Turn
from tiny_models import full_states, offline

pytestmark = pytest.mark.vllm
TURN = Turn("user", "My balance, please! " * 6)
SAID = [{"role": TURN.role, "content": TURN.content}]


def post(address: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{address}{path}", json={"model": "tiny"} | body, timeout=300)


def streamed(answer: httpx.Response) -> list[Any]:
    """Its events that carry verdicts, also inside a response."""
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(line) for line in lines]
    inner = [event.get("response", event) if event.get("type") else event for event in events]
    return [
        one.get("verdicts") or event.get("verdicts")
        for one, event in zip(inner, events, strict=True)
        if "verdicts" in one or "verdicts" in event
    ]


ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": SAID, "max_tokens": 6},
    "/v1/responses": {"input": SAID, "max_output_tokens": 6},
    "/v1/messages": {"messages": SAID, "max_tokens": 6},
}


@pytest.mark.parametrize("path", ASKS)
def test_whole_and_streamed_answers_carry_the_same_verdicts(
    chat: ProbedModel, address: str, path: str
) -> None:
    asked = ASKS[path] | {"temperature": 0}
    body = post(address, path, **asked).raise_for_status().json()
    told = body["verdicts"]
    row = chat.backend.encode_chat((TURN,))
    states = full_states(chat.backend, row)
    assert {"gate-user", "gate-all"} <= told["prompt"].keys()
    for probe in chat.probes:
        ranges = row.ranges(probe.card.scope)
        if ranges and probe.card.scope != "response":
            want = offline(probe, states, ranges).item()
            assert told["prompt"][probe.name]["probs"]["yes"] == pytest.approx(want, abs=1e-5)
    assert told["response_tokens"] > 0 and told["response"]
    first, *_, last = streamed(post(address, path, **asked, stream=True))
    # vLLM joins outputs that a busy server has not sent yet, the first with a later one.
    assert first["prompt"] == told["prompt"]
    assert (first["response"] == {}) == (first["response_tokens"] == 0)
    assert last == told
    # All routes give the same answer, and say the same of it.
    of_chat = post(address, "/v1/chat/completions", **ASKS["/v1/chat/completions"], temperature=0)
    assert told == of_chat.json()["verdicts"]
    assert not body.get("kv_transfer_params")


def test_every_conversation_of_a_batch_has_verdicts_of_its_own(address: str) -> None:
    talks = [SAID, [{"role": "user", "content": "Something else, said in other words"}]]
    asked: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    path = "/v1/chat/completions"
    body = post(address, f"{path}/batch", messages=talks, **asked).raise_for_status().json()
    told = [choice["verdicts"] for choice in body["choices"]]
    alone = [post(address, path, messages=m, **asked).json()["verdicts"] for m in talks]
    for one, other in zip(map(scores, told), map(scores, alone), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert body["verdicts"] == told[0]
    assert scores(told[0]) != pytest.approx(scores(told[1]), abs=1e-5)


def scores(told: dict[str, Any]) -> dict[str, float]:
    return {
        f"{part} {name}": one["probs"]["yes"]
        for part in ("prompt", "response")
        for name, one in told[part].items()
        if one["probs"]
    }


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {"prompt": "hello there"}),
        ("/v1/chat/completions", {"messages": SAID}),
    ],
)
def test_beam_search_answers_and_says_why_no_probe_reads_it(
    address: str, path: str, asked: dict[str, Any]
) -> None:
    """The bug: a 500."""
    body = post(address, path, **asked, use_beam_search=True, n=2, max_tokens=4, temperature=0)
    assert body.status_code == 200 and len(body.json()["choices"]) == 2
    for choice in body.json()["choices"]:
        told = choice["verdicts"]["prompt"]["gate-all"]
        assert told["label"] is None and "beam search" in told["reason"]


def test_a_token_that_the_model_has_not_is_refused_and_the_server_lives(address: str) -> None:
    asked = {"max_tokens": 2, "temperature": 0}
    assert post(address, "/v1/completions", prompt=[1, 10**6], **asked).status_code == 400
    assert post(address, "/v1/completions", prompt=[1, 2], **asked).status_code == 200


def test_wishes_are_heard_on_every_route(address: str) -> None:
    for path, asked in ASKS.items():
        told = post(address, path, **asked, pillion={"probes": ["gate-all"]}).json()["verdicts"]
        assert set(told["prompt"]) == {"gate-all"}
        refused = post(address, path, **asked, pillion={"probes": ["gate-al"]})
        assert refused.status_code == 400 and "'gate-all'" in refused.text


def test_texts_are_classified_in_vllms_shape(chat: ProbedModel, address: str) -> None:
    """Each probe reads its scope's words, also where their blocks are shared."""
    talk = [*SAID, {"role": "assistant", "content": "You have 17 euros. " * 4}]
    row = chat.backend.encode_chat((TURN, Turn("assistant", talk[1]["content"])))
    states = full_states(chat.backend, row)
    for probe in chat.probes:
        body = post(address, "/classify", model=probe.name, messages=talk)
        ranges = row.ranges(probe.card.scope)
        if not ranges:
            assert body.status_code == 400 and probe.name in body.json()["error"]["message"]
            continue
        told = body.json()
        assert set(told) == {"id", "object", "created", "model", "data", "usage"}
        assert told["model"] == probe.name and told["usage"]["total_tokens"] == len(row)
        (entry,) = told["data"]
        want = offline(probe, states, ranges).item()
        assert entry["probs"] == pytest.approx([1 - want, want], abs=1e-5)
        assert entry["label"] == ("yes" if want >= 0.5 else "no")
        assert set(entry) == {"index", "label", "probs", "num_classes"}
    texts = post(address, "/classify", model="gate-user", input=["one", "another one"]).json()
    assert [entry["index"] for entry in texts["data"]] == [0, 1]
    for wrong, why in (
        ({"input": "a"}, "Which of the probes"),
        ({"input": "a", "model": "gate-usr"}, "Did you mean 'gate-user'"),
        ({"model": "gate-user"}, "one of the two"),
        ({"input": "a" * 4000, "model": "gate-user"}, "this model takes"),
    ):
        refused = post(address, "/classify", **wrong)
        assert refused.status_code == 400 and why in refused.json()["error"]["message"]


def test_verdicts_are_counted_among_vllms_numbers(address: str) -> None:
    def counted(part: str) -> float:
        lines = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
        wanted = f'pillion_verdicts_total{{label="yes",part="{part}",probe="gate-all"}}'
        no = wanted.replace('"yes"', '"no"')
        return sum(float(line.split()[-1]) for line in lines if line.startswith((wanted, no)))

    before = {part: counted(part) for part in ("prompt", "response", "text")}
    path = "/v1/chat/completions"
    post(address, path, **ASKS[path], pillion={"probes": []}).raise_for_status()
    post(address, path, **ASKS[path], stream=True).raise_for_status()
    post(address, "/classify", model="gate-all", input="a").raise_for_status()
    more = {part: counted(part) - count for part, count in before.items()}
    assert more == {"prompt": 2, "response": 2, "text": 1}
