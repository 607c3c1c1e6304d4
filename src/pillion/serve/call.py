"""One HTTP request on its way through the server: its id, its deadline, what the log will say."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """Made by the outermost middleware, found in the scope by everything inside.

    Attributes:
        id: told in `x-request-id`.
        path: of the route.
        role: of the caller's key.
        began: when it came, by `time.perf_counter`.
        deadline: when its time is over, by the same clock.
        facts: for its line in the log.
        texts: prompts and answers, for the same where that was asked for.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    path: str = ""
    role: str = "user"
    began: float = field(default_factory=time.perf_counter)
    deadline: float = float("inf")
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    texts: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began

    @property
    def seconds_left(self) -> float:
        """Until its time is over."""
        return self.deadline - time.perf_counter()


def call_of(scope: Mapping[str, Any]) -> Call:
    """The call that an ASGI scope belongs to."""
    return scope["pillion.call"]
