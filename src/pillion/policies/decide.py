"""What policies make of verdicts. Pure functions: nothing is asked, sent or logged here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pillion.core import ABSTAIN, Verdict
from pillion.policies.policy import Annotate, Escalate, Policy, Stop

ALLOW = "allow"
Answer = Literal["yes", "no", "failed"]
"""What a judge said."""


@dataclass(frozen=True)
class Outcome:
    """What is to be done about a text.

    Attributes:
        decisions: probe -> `allow`, `abstain`, `annotate`, or the action that is followed.
        act: the policy to follow: block, stop or route; an escalation that its judge agreed to.
        ask: an escalation whose judge has to be asked before anything can be said.
    """

    decisions: Mapping[str, str] = field(default_factory=dict[str, str])
    act: Policy | None = None
    ask: Escalate | None = None


def decide(
    policies: Sequence[Policy],
    verdicts: Mapping[str, Verdict],
    answers: Mapping[Escalate, Answer] | None = None,
    num_tokens: int | None = None,
) -> Outcome:
    """The outcome for a text; of the policies that act, the first decides.

    Args:
        policies: those for this part, prompt or response, in the file's order.
        verdicts: probe -> verdict.
        answers: what judges have said of this text so far.
        num_tokens: how many tokens of a response the verdicts cover; None for a prompt.
    """
    said, decisions = answers or {}, dict[str, str]()
    for policy in policies:
        if not applies(policy, verdicts.get(policy.probe), num_tokens):
            continue
        action = policy.action
        if isinstance(policy, Escalate):
            if policy not in said:
                return Outcome(_all(verdicts, decisions), ask=policy)
            if said[policy] == "no" or (said[policy] == "failed" and policy.fail == "open"):
                continue
            action = "block" if policy.on == "prompt" else "stop"
        # What is done says more than a note: of both on one probe it is told.
        decisions[policy.probe] = action
        if not isinstance(policy, Annotate):
            return Outcome(_all(verdicts, decisions), act=policy)
    return Outcome(_all(verdicts, decisions))


def applies(policy: Policy, verdict: Verdict | None, num_tokens: int | None = None) -> bool:
    """Whether a verdict is one that the policy waits for; without one, `fail` tells.

    Args:
        policy: that looks at it.
        verdict: None where one is missing.
        num_tokens: of the answer that it covers; None for a prompt's.
    """
    least = policy.after_tokens if isinstance(policy, Stop | Escalate) else 1
    if num_tokens is not None and num_tokens < least:
        return False  # of a response so short, no verdict is missing
    if verdict is None:
        return not isinstance(policy, Annotate) and policy.fail == "closed"
    label = label_of(policy, verdict)
    if isinstance(policy, Escalate):
        if policy.band is None:
            return bool(verdict.abstained)
        return policy.band[0] <= verdict.probs[label] < policy.band[1]
    if policy.threshold is None:
        return label in verdict.labels
    return verdict.probs[label] >= policy.threshold


def label_of(policy: Policy, verdict: Verdict) -> str:
    """The label that a policy waits for: its own, or the positive one of a binary probe."""
    *_, positive = verdict.probs
    return positive if policy.label is None else policy.label


def hold_back(policies: Sequence[Policy]) -> int:
    """How many tokens of an answer wait for those after them."""
    return max((p.hold_back for p in policies if isinstance(p, Stop | Escalate)), default=0)


def fails_closed(policies: Sequence[Policy]) -> bool:
    """Whether tokens that no probe could read must not be sent."""
    return any(p.fail == "closed" for p in policies if isinstance(p, Stop | Escalate))


def _all(verdicts: Mapping[str, Verdict], decisions: Mapping[str, str]) -> dict[str, str]:
    plain = {name: ABSTAIN if v.abstained else ALLOW for name, v in verdicts.items()}
    return plain | dict(decisions)
