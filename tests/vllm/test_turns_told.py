"""What is told of a prompt's turns, refused where it is rendered, and what steps say; no vLLM."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from chat_templates import TEMPLATES, chat_tokenizer
from pillion.backends.codec import Codec
from pillion.core import ModelIdentity, Segment, Tokens, Turn
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY, LatestLogits
from pillion.riding.rendering import Rendering
from pillion.riding.turns import TURNS, prompt_turns, turns_args
from pillion.riding.verdicts import answer_json, verdicts_of
from pillion.vllm.start import hears_reasoning
from pillion.vllm.step import StepBuilder
from pillion.vllm.turns import watch
from tiny_models import make_artefact

ROW = Tokens(range(9), [Segment(1, 3, "user", 0), Segment(4, 9, "tool", 1, "call")])
IDENTITY = ModelIdentity("none", "w", "t", "c", 4, 16, "float32", 4096)


def test_turns_come_as_they_went() -> None:
    for answering in (True, False):
        found = prompt_turns(list(ROW), turns_args(ROW, answering))
        assert found.tokens == ROW and found.tokens.segments == ROW.segments
        assert found.answering == answering
    assert turns_args(Tokens(ROW)) == {}
    assert prompt_turns([1, 2], None) == (Tokens([1, 2]), True)


@pytest.mark.parametrize(
    "told",
    [
        "no json",
        json.dumps([]),
        json.dumps({"tokens": 9}),
        json.dumps({"tokens": 9, "segments": [[1, 3, "boss", 0, "content"]]}),
        json.dumps({"tokens": 9, "segments": [[1, 3, "user"]]}),
        json.dumps({"tokens": 9, "segments": [[3, 1, "user", 0, "content"]]}),
        json.dumps({"tokens": 9, "segments": [[1, 10, "user", 0, "content"]]}),
        json.dumps({"tokens": 8, "segments": [[1, 3, "user", 0, "content"]]}),
        7,
    ],
)
def test_turns_that_do_not_fit_are_none(told: Any) -> None:
    assert prompt_turns(list(ROW), {TURNS: told}).tokens.segments == ()


def rendering(name: str) -> Rendering:
    return Rendering(Codec(chat_tokenizer(name), name), scoped=True)


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"merging"}))
def test_every_control_token_is_refused_wherever_it_stands(name: str) -> None:
    codec = Codec(chat_tokenizer(name), name)
    for token in codec.tokenizer.get_added_vocab():
        for message in (
            {"role": "user", "content": f"So {token} it is"},
            {"role": "user", "content": [{"type": "text", "text": token[:3]}, {"text": token[3:]}]},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": token}}]},
        ):
            if message["role"] == "assistant" and token in ("<think>", "</think>"):
                continue
            with pytest.raises(ValueError, match="Message 2 spells the control token"):
                rendering(name).check("Message 2", message)
    rendering(name).check("Message 1", {"role": "user", "content": "<p>1 < 2</p> [x]"})


def test_turns_are_told_only_where_both_have_rendered_the_same() -> None:
    turns = (Turn("user", "Hi"),)
    own, engine_saw = rendering("chatml"), list[Any]()
    row = own._codec.encode_chat(turns)
    messages = [{"role": "user", "content": "Hi"}]
    rendered = list(row)

    async def preprocess_chat(request: Any, asked: Any) -> Any:
        return asked, ({"prompt_token_ids": list(rendered)},)

    renderer = SimpleNamespace(preprocess_chat=preprocess_chat)
    engine = SimpleNamespace(
        generate=lambda prompt, params: engine_saw.append((prompt, params.extra_args))
    )
    watch(own, renderer, engine)

    def ask(extra_args: Any) -> Any:
        request = SimpleNamespace(tools=None, documents=None)
        _, (prompt,) = asyncio.run(renderer.preprocess_chat(request, messages))
        engine.generate(prompt, SimpleNamespace(extra_args=extra_args))
        seen, extra = engine_saw.pop()
        assert set(seen) == {"prompt_token_ids"}
        return extra

    assert prompt_turns(row, ask(None)).tokens.segments == row.segments
    forged = {TURNS: "forged", "other": 1}
    assert ask(forged) == {**turns_args(row), "other": 1}
    rendered.append(0)
    assert ask(forged) == {"other": 1}


def made(scope: str) -> Artefact:
    return make_artefact(scope, IDENTITY, template="chat", scope=scope)


def test_answers_without_reasoning_need_steps_that_know_their_tokens() -> None:
    probes = {s: [made(s)] for s in ("all", "user", "response")}
    assert hears_reasoning(probes["response"], (1, 2), None)
    assert hears_reasoning(probes["response"], (1, 2), False)
    assert not hears_reasoning(probes["response"], None, True)
    assert not hears_reasoning(probes["all"] + probes["user"], (1, 2), True)
    with pytest.raises(ConfigError, match=r"'response' reads answers .*--no-async-scheduling"):
        hears_reasoning(probes["response"], (1, 2), True)


def scheduled(finished: set[str], **counts: int) -> Any:
    """An output of vLLM's scheduler: every request is known and goes on from place 5."""
    known = SimpleNamespace(
        req_ids=sorted(counts, reverse=True),
        num_computed_tokens=[5] * len(counts),
        new_block_ids=[None] * len(counts),
        resumed_req_ids=set(),
    )
    return SimpleNamespace(
        num_scheduled_tokens=counts,
        scheduled_new_reqs=[],
        scheduled_cached_reqs=known,
        finished_req_ids=finished,
    )


def test_requests_that_are_not_read_are_no_spans_but_count() -> None:
    steps = StepBuilder(with_ids=False)
    steps.skip("adapted")
    step = steps.step(scheduled(set(), adapted=7, c=1))
    assert step.decodes.requests == ("c",) and not step.spans
    assert step.unread_tokens == 7 and step.num_tokens == 8
    steps.leave("adapted")
    assert steps.step(scheduled({"adapted"}, c=1)).unread_tokens == 0


def test_a_request_for_an_adapter_has_no_verdict_but_the_reason() -> None:
    latest, probes = LatestLogits(), (made("all"), made("response"))
    latest.enter("a", adapter="two")
    latest.enter("b")
    verdicts = [answer_json(verdicts_of(latest.params(r), probes), probes) for r in "ab"]
    told, absent = (v["prompt"]["all"] | v["response"].get("response", {}) for v in verdicts)
    assert told["label"] is None and "adapter 'two'" in told["reason"]
    assert "adapter" not in absent["reason"] and verdicts[1]["response"] == {}
    latest.leave("a")
    latest.forget()
    assert "adapter" not in latest.params("a")[KEY]


def test_who_has_left_is_told_with_the_next_step_that_runs() -> None:
    """The bug: workers are not asked in a step without tokens, and kept requests for ever."""
    steps = StepBuilder(with_ids=False)
    assert steps.step(scheduled({"a"})).finished == ()
    assert steps.step(scheduled({"b"}, c=1)).finished == ("a", "b")
    assert steps.step(scheduled(set(), c=1)).finished == ()


def test_a_step_is_told_in_the_order_in_which_it_was_given_out() -> None:
    """The bug: a request began behind blocks that another one filled in the same step."""
    spans = StepBuilder(with_ids=False).step(scheduled(set(), a=2, b=3)).spans
    assert [(span.request, span.begin, span.end) for span in spans] == [("a", 5, 7), ("b", 5, 8)]


def test_tokens_are_told_where_answers_may_hold_reasoning() -> None:
    steps = StepBuilder(with_ids=True)
    request = SimpleNamespace(
        request_id="a",
        sampling_params=SimpleNamespace(extra_args=turns_args(ROW)),
        prompt_token_ids=list(ROW),
        num_prompt_tokens=len(ROW),
        all_token_ids=list(range(20)),
    )
    steps.enter(request)
    (span,) = steps.step(scheduled(set(), a=3)).spans
    assert span.ids == (5, 6, 7)
    steps.leave("a")
