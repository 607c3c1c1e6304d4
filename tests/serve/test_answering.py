"""One answer on its way out: what is held back, counted, written down and asked for."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from client import application, ask, streamed, text_of
from made_policies import BLOCK, ESCALATE, RISING, STOP, judge, policies
from scripted import ScriptedEngine

from pillion.serve.quotas import Account


def test_what_a_stop_string_holds_back_goes_with_a_stopped_answer() -> None:
    engine = ScriptedEngine(scores=RISING)
    with application(engine, policies(STOP | {"hold_back": 0})) as client:
        body = ask(client, stop="two three four!")
        chunks = streamed(client, stop="two three four!")
    assert body["choices"][0]["finish_reason"] == "content_filter"
    assert body["choices"][0]["message"]["content"] == text_of(chunks) == "one "


@pytest.mark.parametrize("hold_back", [0, 1, 2])
def test_an_answer_of_hundreds_of_tokens_ends_at_its_limit(hold_back: int) -> None:
    engine = ScriptedEngine(words=["w "] * 400)
    engine.end_ids = frozenset()
    with application(engine, policies(STOP | {"hold_back": hold_back})) as client:
        body = ask(client, max_tokens=300)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["content"] == "w " * 300
    assert body["usage"]["completion_tokens"] == 300
    read = 300 if hold_back else 299  # the last one is read where it may be held back
    assert body["verdicts"]["response_tokens"] == read


def test_a_token_more_is_asked_for_only_where_it_has_to_be_read() -> None:
    note = {"action": "annotate", "on": "response"}
    for chosen, more in (
        (policies(), 0),
        (policies(note), 0),
        (policies(STOP | {"hold_back": 0}), 0),
        (policies(STOP | {"hold_back": 2}), 1),
        (policies(STOP, dry_run=True), 0),
    ):
        engine = ScriptedEngine()
        with application(engine, chosen) as client:
            ask(client, max_tokens=2)
        assert [request.max_tokens for request in engine.submitted] == [2 + more]


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_where_nothing_is_held_back_an_unread_token_is_said(fail: str) -> None:
    engine = ScriptedEngine(words=("a", "b", "c"))
    with application(engine, policies(STOP | {"fail": fail, "hold_back": 0})) as client:
        body = ask(client, max_tokens=2)
    assert body["choices"][0]["message"]["content"] == "ab"


def test_a_refusal_covers_no_token_of_an_answer() -> None:
    engine = ScriptedEngine(prompt_score=0.9)
    with application(engine, policies(BLOCK)) as client:
        body, chunks = ask(client), streamed(client)
    assert body["verdicts"]["response_tokens"] == 0 and body["verdicts"]["response"] == {}
    assert body["usage"]["completion_tokens"] == 0
    assert [chunk["verdicts"]["response_tokens"] for chunk in chunks[1:]] == [0, 0]
    assert "tool" not in body["verdicts"] and set(body["verdicts"]["prompt"]) == {"p"}


def test_a_judge_without_a_verdict_to_ask_about_fails_as_stated() -> None:
    seen: list[Any] = []
    engine = ScriptedEngine(prompt_score=None)
    with application(engine, policies(ESCALATE), judge("no", seen)) as client:
        assert ask(client)["choices"][0]["finish_reason"] == "content_filter"
    assert seen == []


@pytest.mark.parametrize(
    ("score", "label", "probs"),
    [(0.912345, "yes", {"no": 0.0877, "yes": 0.9123}), (None, None, None)],
)
def test_a_policy_that_acts_is_written_down_once_with_what_it_saw(
    score: float | None, label: Any, probs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pillion.serve")
    with application(ScriptedEngine(prompt_score=score), policies(BLOCK)) as client:
        ask(client)
    (told,) = [r.facts for r in caplog.records if r.message == "policy"]  # type: ignore[attr-defined]
    wanted = {"action": "block", "probe": "p", "part": "prompt", "label": label, "probs": probs}
    assert told == wanted | {"dry_run": False}


def test_a_judge_that_is_agreed_with_is_written_down_once_for_an_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pillion.serve")
    chosen = policies(ESCALATE | {"on": "response"}, dry_run=True)
    with application(ScriptedEngine(scores=(0.5,)), chosen) as client:
        ask(client)
    told = [r.facts for r in caplog.records if r.message == "policy"]  # type: ignore[attr-defined]
    assert [(one["action"], one["part"]) for one in told] == [("escalate", "response")]


def test_tokens_are_counted_and_timed_one_by_one_and_choices_have_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent: list[int] = []
    monkeypatch.setattr(Account, "spend", lambda _, tokens: spent.append(tokens))
    engine = ScriptedEngine(seconds=0.01)
    with application(engine) as client:
        begin = time.perf_counter()
        ask(client, n=2)
        took = time.perf_counter() - begin
        metrics = client.get("/metrics").text
    ids = [request.id for request in engine.submitted]
    assert [one.rsplit("-", 1)[1] for one in ids] == ["0", "1"]
    assert sorted(spent) == [1] * 10 + [len(engine.submitted[0].token_ids)]
    numbers = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")
    first, gap = "pillion_time_to_first_token_seconds", "pillion_time_between_tokens_seconds"
    assert float(numbers[f"{first}_count"]) == 2 and float(numbers[f"{gap}_count"]) == 8
    assert 0.02 <= float(numbers[f"{first}_sum"]) < 2 * took
    assert 0.08 <= float(numbers[f"{gap}_sum"]) < 2 * took


def test_tokens_that_no_stop_string_holds_back_any_more_are_told_together() -> None:
    with application(ScriptedEngine()) as client:
        choice = ask(client, logprobs=True, stop="two threeX")["choices"][0]
    assert choice["message"]["content"] == "one two three four five "
    said = [entry["token"] for entry in choice["logprobs"]["content"]]
    assert said == ["one ", "two ", "three ", "four ", "five "]
