"""What policies make of verdicts, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from pillion.core import Verdict
from pillion.policies.actions import Annotate, Block, Escalate, Route, Stop
from pillion.policies.decide import decide, fails_closed, hold_back

BLOCK = Block(probe="p", action="block", fail="closed")
STOP = Stop(probe="p", action="stop", fail="open", hold_back=3)
ROUTE = Route(probe="q", action="route", fail="open", upstream="u")
ASK = Escalate(probe="p", action="escalate", fail="closed", judge="j", band=(0.4, 0.6))


def verdict(score: float, probe: str = "p", **facts: Any) -> Verdict:
    label = "yes" if score >= 0.5 else "no"
    return Verdict(probe, label, {"no": 1 - score, "yes": score}, 0.5, (label,), **facts)


def both(p: float, q: float) -> dict[str, Verdict]:
    return {"p": verdict(p), "q": verdict(q, "q")}


def test_without_policies_everything_is_allowed() -> None:
    outcome = decide([], both(0.9, 0.1) | {"r": verdict(0.5, "r", abstained=True)})
    assert outcome.decisions == {"p": "allow", "q": "allow", "r": "abstain"}
    assert outcome.act is outcome.ask is None


def test_a_policy_acts_where_the_probe_decides_or_at_its_own_line() -> None:
    assert BLOCK.applies(verdict(0.5)) and not BLOCK.applies(verdict(0.49))
    strict = BLOCK.model_copy(update={"threshold": 0.9})
    assert strict.applies(verdict(0.9)) and not strict.applies(verdict(0.89))
    other = BLOCK.model_copy(update={"label": "no", "threshold": 0.9})
    assert other.applies(verdict(0.05)) and not other.applies(verdict(0.9))


def test_of_the_policies_that_act_the_first_decides() -> None:
    assert decide([BLOCK, ROUTE], both(0.9, 0.9)).act is BLOCK
    assert decide([ROUTE, BLOCK], both(0.9, 0.9)).act is ROUTE
    assert decide([BLOCK, ROUTE], both(0.1, 0.9)).decisions == {"p": "allow", "q": "route"}


def test_a_note_lets_the_others_act() -> None:
    note = Annotate(probe="p", action="annotate")
    outcome = decide([note, ROUTE], both(0.9, 0.9))
    assert outcome.decisions == {"p": "annotate", "q": "route"} and outcome.act is ROUTE


def test_a_missing_verdict_fails_as_the_policy_says() -> None:
    for policy, acts in ((BLOCK, True), (STOP, False), (ASK, True)):
        assert policy.applies(None) is acts
    assert not Annotate(probe="p", action="annotate").applies(None)
    assert decide([BLOCK], {}).act is BLOCK
    # Before the first token of a response nothing is missing.
    closed = STOP.model_copy(update={"fail": "closed"})
    assert not closed.applies(None, 0) and closed.applies(None, 1)


def test_a_response_is_left_alone_up_to_the_number_of_tokens() -> None:
    late = STOP.model_copy(update={"after_tokens": 5})
    assert not late.applies(verdict(0.9), 4) and late.applies(verdict(0.9), 5)


def test_a_note_on_a_response_looks_at_it_from_its_first_token_on() -> None:
    note = Annotate(probe="p", action="annotate", on="response")
    assert not note.applies(verdict(0.9), 0) and note.applies(verdict(0.9), 1)


def test_a_policy_without_a_label_waits_for_the_last_of_the_probe() -> None:
    assert BLOCK.label_of(verdict(0.2)) == "yes"
    assert BLOCK.model_copy(update={"label": "no"}).label_of(verdict(0.9)) == "no"


def test_a_judge_is_asked_inside_the_band_only() -> None:
    for outside in (0.3, 0.6, 0.7):
        assert decide([ASK], both(outside, 0.0)).ask is None
    assert decide([ASK], both(0.4, 0.0)).ask is ASK
    own = ASK.model_copy(update={"band": None})
    assert decide([own], {"p": verdict(0.4, abstained=True)}).ask is own
    assert decide([own], {"p": verdict(0.4, abstained=False)}).ask is None


@pytest.mark.parametrize(
    ("answer", "fail", "acts"),
    [
        ("yes", "open", True),
        ("no", "closed", False),
        ("failed", "open", False),
        ("failed", "closed", True),
    ],
)
def test_a_judge_decides_and_a_broken_one_fails_as_stated(
    answer: Any, fail: str, acts: bool
) -> None:
    policy = ASK.model_copy(update={"fail": fail})
    outcome = decide([policy], both(0.5, 0.0), {policy: answer})
    assert outcome.ask is None and (outcome.act is policy) is acts
    assert outcome.decisions["p"] == ("block" if acts else "allow")


def test_an_escalation_on_a_response_stops_it() -> None:
    policy = ASK.model_copy(update={"on": "response"})
    assert decide([policy], both(0.5, 0.0), {policy: "yes"}, 3).decisions["p"] == "stop"


def test_the_longest_hold_back_counts_and_one_closed_policy_closes() -> None:
    assert hold_back([BLOCK, STOP, ASK]) == 3 and hold_back([BLOCK]) == 0
    late = ASK.model_copy(update={"on": "response"})
    assert fails_closed([STOP, late]) and not fails_closed([STOP, BLOCK, ASK])


def test_a_note_and_a_block_on_one_probe_tell_the_block() -> None:
    """They told `annotate`, though the prompt was blocked."""
    note = Annotate(probe="p", action="annotate")
    for policies in ([note, BLOCK], [BLOCK, note]):
        outcome = decide(policies, both(0.9, 0.1))
        assert outcome.act is BLOCK and outcome.decisions == {"p": "block", "q": "allow"}
    other = Annotate(probe="q", action="annotate")
    assert decide([other, BLOCK], both(0.9, 0.9)).decisions == {"p": "block", "q": "annotate"}
    assert decide([note], both(0.9, 0.9)).decisions["p"] == "annotate"


def test_a_judge_of_a_response_is_left_alone_up_to_the_number_of_tokens() -> None:
    late = ASK.model_copy(update={"on": "response", "after_tokens": 5})
    assert decide([late], both(0.5, 0.0), num_tokens=4).ask is None
    assert decide([late], both(0.5, 0.0), num_tokens=5).ask is late
    assert decide([late], {}, {late: "failed"}, num_tokens=4).act is None
    assert decide([late], {}, {late: "failed"}, num_tokens=5).act is late
