"""How much each caller has asked for lately, and whether it may ask again.

Buckets that fill steadily: a minute's worth at once, then as fast as it comes. Knows no route.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from pillion.serve.keys import Caller
from pillion.serve.refusal import Refused

Clock = Callable[[], float]


class Bucket:
    """So many a minute.

    Args:
        per_minute: what it holds, and what flows in within a minute; None: without end.
        clock: seconds.
    """

    def __init__(self, per_minute: int | None, clock: Clock) -> None:
        self.per_minute, self.clock = per_minute, clock
        self._level, self._then = float(per_minute or 0), clock()

    def take(self, count: int) -> None:
        """Takes some out, beyond what is there if need be: the debt has to flow in again."""
        if self.per_minute is not None:
            self._fill()
            self._level -= count

    def wait(self, count: int) -> float:
        """Seconds until so many are in it; 0 if they are."""
        if self.per_minute is None:
            return 0.0
        self._fill()
        return max(0.0, (count - self._level) * 60 / self.per_minute)

    def _fill(self) -> None:
        assert self.per_minute is not None
        now = self.clock()
        flowed = (now - self._then) * self.per_minute / 60
        self._level, self._then = min(self.per_minute, self._level + flowed), now


class Account:
    """What one caller has asked for.

    Args:
        caller: its name and quota.
        clock: seconds.
    """

    def __init__(self, caller: Caller, clock: Clock = time.monotonic) -> None:
        self.caller = caller
        self._requests = Bucket(caller.quota.requests, clock)
        self._tokens = Bucket(caller.quota.tokens, clock)
        self._in_flight = 0

    def spend(self, tokens: int) -> None:
        """Tokens that were read or written for it."""
        self._tokens.take(tokens)

    @contextmanager
    def request(self) -> Generator[None]:
        """A request in flight.

        Raises:
            Refused: 429, with Retry-After: it has asked for too much.
        """
        quota = self.caller.quota
        if quota.in_flight is not None and self._in_flight >= quota.in_flight:
            raise self._refusal(f"has {self._in_flight} requests in flight", quota.in_flight, 1.0)
        if (wait := self._requests.wait(1)) > 0:
            raise self._refusal("has sent its requests of this minute", quota.requests, wait)
        if (wait := self._tokens.wait(1)) > 0:
            raise self._refusal("has used its tokens of this minute", quota.tokens, wait)
        self._requests.take(1)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def _refusal(self, what: str, most: int | None, seconds: float) -> Refused:
        after = max(1, math.ceil(seconds))
        return Refused(
            429,
            f"The key {self.caller.name!r} {what}, and its quota is {most:,}; come back in {after} "
            "seconds.",
            "quota_exceeded",
            headers={"Retry-After": f"{after}"},
        )


class Accounts:
    """Of all callers, by name."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def of(self, caller: Caller) -> Account:
        """The account of a caller."""
        return self._accounts.setdefault(caller.name, Account(caller))
