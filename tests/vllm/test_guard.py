"""Policies in front of vLLM's output processor; lists of outputs stand for its engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pillion.core import ModelIdentity
from pillion.errors import ConfigError
from pillion.policies import Policies, make_policies
from pillion.riding.latest_logits import KEY
from pillion.riding.metrics import ACTIONS
from pillion.vllm.guard import MARK, PolicyGuard, expect
from pillion.vllm.start import policies_of
from tiny_models import make_artefact

IDENTITY = ModelIdentity("none", "w", "t", "c", 4, 16, "float32", 4096)
PROBES = tuple(make_artefact(name, IDENTITY) for name in ("asked", "answered"))
BLOCK = {"probe": "asked", "action": "block", "fail": "closed", "refusal": "No."}
STOP = {"probe": "answered", "action": "stop", "fail": "open"}
YES, NO = 3.0, -3.0


class Processor:
    """vLLM's, as far as a guard knows it; keeps what it is given."""

    def __init__(self) -> None:
        self.request_states = {name: SimpleNamespace() for name in ("a", "b")}
        self.given: list[Any] = []

    def process_outputs(self, outputs: Sequence[Any], *_: Any) -> Any:
        self.given += outputs
        return SimpleNamespace(reqs_to_abort=[])


def output(
    token: int, read: int, prompt: float | None, answer: float | None, end: str | None = None
) -> Any:
    """Of the step that draws a token, when so many of the answer were read."""
    found = {
        "prompt": {} if prompt is None else {"asked": [prompt]},
        "response": {} if answer is None else {"answered": [answer]},
        "read": read,
    }
    return SimpleNamespace(
        request_id="a",
        new_token_ids=[token],
        new_logprobs=[0.0],
        finish_reason=end,
        stop_reason=None,
        kv_transfer_params={KEY: found},
        prefill_stats=None if read else "prefill",
    )


def run(
    outputs: Sequence[Any], *policies: dict[str, Any]
) -> tuple[list[list[int]], list[Any], Any]:
    """Tokens that are passed on after each step; all outputs that were; what is aborted."""
    processor, aborted, steps = Processor(), list[str](), list[list[int]]()
    guard = PolicyGuard(PROBES, make_policies({"policies": list(policies)}), "stop")
    guard.watch(processor)
    for one in outputs:
        before = len(processor.given)
        aborted += processor.process_outputs([one]).reqs_to_abort
        steps.append([token for o in processor.given[before:] for token in o.new_token_ids])
    return steps, processor.given, aborted


def answer(logits: Sequence[float | None], end: str | None = "stop") -> list[Any]:
    """An answer whose verdict after each token is told; its first step has none."""
    every = [None, *logits]
    return [
        output(i, i, NO, logit, end if i == len(logits) else None) for i, logit in enumerate(every)
    ]


def test_a_prompt_that_is_blocked_gives_a_refusal_and_no_token() -> None:
    before = ACTIONS.labels("asked", "block", "false")._value.get()
    steps, (given,), aborted = run([output(7, 0, YES, None)], BLOCK, STOP)
    assert steps == [[]] and aborted == ["a"]
    assert (given.finish_reason, given.stop_reason) == ("stop", MARK)
    assert given.kv_transfer_params[KEY]["refusal"] == "No." and given.new_logprobs is None
    assert ACTIONS.labels("asked", "block", "false")._value.get() == before + 1


def test_a_prompt_is_judged_once_and_others_are_answered() -> None:
    outputs = [output(0, 0, NO, None), output(1, 1, YES, NO, "stop")]
    steps, _, aborted = run(outputs, BLOCK)
    assert steps == [[0], [1]] and not aborted


@pytest.mark.parametrize(("fail", "steps"), [("closed", [[]]), ("open", [[7]])])
def test_without_a_verdict_of_the_prompt_the_policy_says_what_is_done(
    fail: str, steps: list[list[int]]
) -> None:
    for logit in (None, float("nan")):
        assert run([output(7, 0, logit, None)], BLOCK | {"fail": fail})[0] == steps


@pytest.mark.parametrize(
    ("hold", "steps"),
    [
        (0, [[0], [1], [2], []]),
        (1, [[], [0], [1], []]),
        (2, [[], [], [0], []]),
        (9, [[], [], [], []]),
    ],
)
def test_the_token_that_crosses_the_line_and_those_held_back_are_not_passed_on(
    hold: int, steps: list[list[int]]
) -> None:
    found, given, aborted = run(answer([NO, NO, YES], end=None), STOP | {"hold_back": hold})
    assert found == steps and aborted == ["a"]
    assert given[-1].stop_reason == MARK and "refusal" not in given[-1].kv_transfer_params[KEY]
    # vLLM counts cached tokens by the first output that it is given.
    assert given[0].prefill_stats == "prefill"


def test_what_waits_goes_out_at_the_end_and_after_tokens_waits_for_more() -> None:
    assert run(answer([NO, NO]), STOP | {"hold_back": 2})[0] == [[], [], [0, 1, 2]]
    late = STOP | {"after_tokens": 3}
    assert run(answer([YES, YES, NO]), late)[0] == [[], [0], [1], [2, 3]]
    assert run(answer([YES, YES, YES]), late)[0] == [[], [0], [1], []]


def test_a_token_that_nobody_read_is_not_sent_where_policies_fail_closed() -> None:
    """The last one of an answer that was cut: it was drawn, and no pass ran it."""
    outputs = {fail: answer([NO, NO], "length") for fail in ("open", "closed")}
    passed = {fail: run(one, STOP | {"fail": fail})[0] for fail, one in outputs.items()}
    assert passed == {"open": [[], [0], [1, 2]], "closed": [[], [0], [1]]}
    assert run(answer([NO, NO], "length"), STOP | {"fail": "closed", "hold_back": 0})[0][-1] == [2]


def test_faults_and_other_requests_pass_as_they_are() -> None:
    fault = output(0, 0, YES, None, "error")
    fault.kv_transfer_params = None
    assert run([fault], BLOCK, STOP)[1] == [fault] and fault.finish_reason == "error"
    unknown = output(5, 0, YES, None)
    unknown.request_id = "gone"
    assert run([unknown], BLOCK, STOP)[0] == [[5]]


def test_an_annotation_changes_nothing() -> None:
    note = {"probe": "answered", "action": "annotate", "on": "response"}
    assert run(answer([YES, YES]), note)[0] == [[0], [1], [2]]


def test_what_is_no_server_does_not_pass_policies_over() -> None:
    class Plain(Processor):
        pass

    expect(Plain, True)
    with pytest.raises(ConfigError, match="HTTP server, and this is not it; leave them out"):
        Plain().process_outputs([])
    guarded = Plain()
    PolicyGuard(PROBES, Policies(), "stop").watch(guarded)
    guarded.process_outputs([])
    expect(Plain, False)
    Plain().process_outputs([])


def test_policies_that_cannot_be_followed_are_refused_by_name(tmp_path: Path) -> None:
    def written(**content: Any) -> Path:
        path = tmp_path / "policies.json"
        path.write_text(json.dumps(content))
        return path

    assert policies_of(None, True, PROBES) == Policies()
    good = written(policies=[BLOCK, STOP])
    assert len(policies_of(good, True, PROBES).policies) == 2
    with pytest.raises(ConfigError, match="over HTTP, which is not asked for; make the options"):
        policies_of(good, False, PROBES)
    with pytest.raises(ConfigError, match="Did you mean 'asked'"):
        policies_of(written(policies=[BLOCK | {"probe": "askd"}]), True, PROBES)
    server = {"url": "http://h/v1", "model": "m"}
    route = {"probe": "asked", "action": "route", "fail": "open", "upstream": "u"}
    judge = {"probe": "asked", "action": "escalate", "fail": "open", "judge": "u", "band": [0, 1]}
    for other, kind in ((route, "upstreams"), (judge, "judges")):
        path = written(policies=[BLOCK, other], **{kind: {"u": server}})
        with pytest.raises(ConfigError, match=rf"Policy 2 .{other['action']}. asks another server"):
            policies_of(path, True, PROBES)
