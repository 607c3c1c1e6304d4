"""What follows from verdicts: the file of policies, and the decisions that it leads to.

Knows probes by their cards; asks, sends and logs nothing. Every server follows it.
"""

from pillion.policies.actions import JudgeReply, Policy, Route, TextPart
from pillion.policies.decide import ALLOW, PolicyOutcome, decide, fails_closed, hold_back
from pillion.policies.policy import (
    JudgeServer,
    Policies,
    Upstream,
    api_key,
    make_policies,
    read_policies,
)

__all__ = [
    "ALLOW",
    "JudgeReply",
    "JudgeServer",
    "Policies",
    "Policy",
    "PolicyOutcome",
    "Route",
    "TextPart",
    "Upstream",
    "api_key",
    "decide",
    "fails_closed",
    "hold_back",
    "make_policies",
    "read_policies",
]
