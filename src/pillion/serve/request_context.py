"""What the server knows of one HTTP request: its id, deadline and caller, and facts for the log."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pillion.serve.keys import LOCAL
from pillion.serve.quotas import Account


@dataclass
class RequestContext:
    """Made by the outermost middleware, found in the scope by everything inside.

    Attributes:
        id: told in `x-request-id`.
        path: of the route.
        account: of the caller.
        began: when it came, by `time.perf_counter`.
        deadline: when its time is over, by the same clock.
        facts: for its line in the log.
        texts: prompts and answers, for the same where that was asked for.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    path: str = ""
    account: Account = field(default_factory=lambda: Account(LOCAL))
    began: float = field(default_factory=time.perf_counter)
    deadline: float = float("inf")
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    texts: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def caller(self) -> str:
        """Name of the key that it came with."""
        return self.account.caller.name

    def note(self, part: str, told: Mapping[str, Any]) -> None:
        """For its line in the log, what probes and policies said of a prompt or response."""
        kept = ("label", "probs", "decision")
        verdicts = {name: {k: one[k] for k in kept} for name, one in told.items()}
        self.facts.setdefault(f"{part}_verdicts", []).append(verdicts)

    @property
    def seconds(self) -> float:
        """Seconds since it came."""
        return time.perf_counter() - self.began

    @property
    def seconds_left(self) -> float:
        """Seconds until its deadline."""
        return self.deadline - time.perf_counter()


def context_of(scope: Mapping[str, Any]) -> RequestContext:
    """The context of a request, from its ASGI scope."""
    return scope["pillion.context"]
