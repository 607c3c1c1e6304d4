"""What policies make of verdicts. Pure functions: nothing is asked, sent or logged here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pillion.core import ABSTAIN, Verdict
from pillion.policies.actions import JudgeReply, Policy

ALLOW = "allow"


@dataclass(frozen=True)
class PolicyOutcome:
    """What to do about a text.

    Attributes:
        decisions: probe -> `allow`, `abstain`, `annotate`, or the action that is followed.
        act: the policy to follow: block, stop or route; an escalation that its judge agreed to.
        ask: an escalation whose judge has to be asked before anything can be said.
    """

    decisions: Mapping[str, str] = field(default_factory=dict[str, str])
    act: Policy | None = None
    ask: Policy | None = None


def decide(
    policies: Sequence[Policy],
    verdicts: Mapping[str, Verdict],
    answers: Mapping[Policy, JudgeReply] | None = None,
    num_tokens: int | None = None,
) -> PolicyOutcome:
    """The outcome for a text; of the policies that act, the first decides.

    Args:
        policies: those for this part, prompt or response, in the file's order.
        verdicts: probe -> verdict.
        answers: what judges have said of this text so far.
        num_tokens: how many tokens of a response the verdicts cover; None for a prompt.
    """
    said, decisions = answers or {}, dict[str, str]()
    for policy in policies:
        if not policy.applies(verdicts.get(policy.probe), num_tokens):
            continue
        if policy.asks and policy not in said:
            return PolicyOutcome(_all(verdicts, decisions), ask=policy)
        action = policy.done(said.get(policy))
        if action is None:
            continue
        # What is done says more than a note: of both on one probe it is told.
        decisions[policy.probe] = action
        if policy.acts:
            return PolicyOutcome(_all(verdicts, decisions), act=policy)
    return PolicyOutcome(_all(verdicts, decisions))


def hold_back(policies: Sequence[Policy]) -> int:
    """How many tokens of an answer wait for those after them."""
    return max((policy.held_tokens for policy in policies), default=0)


def fails_closed(policies: Sequence[Policy]) -> bool:
    """Whether tokens that no probe could read must not be sent."""
    return any(policy.closed for policy in policies if policy.on == "response")


def _all(verdicts: Mapping[str, Verdict], decisions: Mapping[str, str]) -> dict[str, str]:
    plain = {name: ABSTAIN if v.abstained else ALLOW for name, v in verdicts.items()}
    return plain | dict(decisions)
