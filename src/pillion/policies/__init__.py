"""What follows from verdicts: the file of policies, and the decisions that it leads to.

Knows probes by their cards; asks, sends and logs nothing. Every server follows it.
"""

from pillion.policies.decide import (
    ALLOW,
    Answer,
    Outcome,
    applies,
    decide,
    fails_closed,
    hold_back,
    label_of,
)
from pillion.policies.policy import (
    Annotate,
    Block,
    Escalate,
    Judge,
    Part,
    Policies,
    Policy,
    Route,
    Stop,
    Upstream,
    api_key,
    make_policies,
    read_policies,
)

__all__ = [
    "ALLOW",
    "Annotate",
    "Answer",
    "Block",
    "Escalate",
    "Judge",
    "Outcome",
    "Part",
    "Policies",
    "Policy",
    "Route",
    "Stop",
    "Upstream",
    "api_key",
    "applies",
    "decide",
    "fails_closed",
    "hold_back",
    "label_of",
    "make_policies",
    "read_policies",
]
