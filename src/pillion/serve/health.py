"""Whether the engine lives: told at once, mended once, and the end of the process if it cannot be.

Knows no route; `on_end` ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Literal

from pillion.errors import PillionError
from pillion.runtime import Engine
from pillion.serve.logs import Log

State = Literal["starting", "ready", "draining", "rebuilding", "failed"]
LOOK_SECONDS = 0.25
REBUILD_SECONDS = 600.0
"""An engine that fails again within this time of being rebuilt is not rebuilt again."""
TRIAL_SECONDS = 60.0


class Health:
    """Looks after an engine.

    Args:
        engine: started and closed elsewhere.
        log: where failures are told.

    Attributes:
        started: whether the engine takes requests.
        draining: whether no new request is taken any more.
        failed: why the process has to end; None while it has not.
        on_end: called once, when it has.
    """

    def __init__(self, engine: Engine, log: Log) -> None:
        self.engine, self.log = engine, log
        self.started = self.draining = self._rebuilding = False
        self.failed: str | None = None
        self.on_end: Callable[[], None] = lambda: None
        self._rebuilt = -float("inf")
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        """The state in one word, as `/health` and `/ready` say it."""
        if self.failed is not None:
            return "failed"
        if self._rebuilding or (self.started and self.engine.failure is not None):
            return "rebuilding"
        if self.draining:
            return "draining"
        return "ready" if self.started else "starting"

    def start(self) -> None:
        """Begins to look; the engine has been started."""
        self.started = True
        self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Looks no more; the engine will be closed."""
        self.started = False
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _look(self) -> None:
        while self.failed is None:
            await asyncio.sleep(LOOK_SECONDS)
            why = self.engine.failure
            if why is not None:
                self.log("engine_failed", why=why)
                await self._mend(why)

    async def _mend(self, why: str) -> None:
        now = time.monotonic()
        if now - self._rebuilt < REBUILD_SECONDS:
            self._end(f"it failed again after it was rebuilt ({why})")
            return
        self._rebuilt, self._rebuilding = now, True
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                await self.engine.rebuild()
        except (PillionError, TimeoutError) as error:
            self._end(f"{why}; {str(error).rstrip('.') or 'its trial took too long'}")
        except Exception as error:
            self.log.failure(error)
            self._end(f"{why}; it could not be rebuilt")
        else:
            self.log("engine_rebuilt", seconds=round(time.monotonic() - now, 3))
        finally:
            self._rebuilding = False

    def _end(self, why: str) -> None:
        self.failed = why
        self.log("engine_lost", why=why)
        self.on_end()
