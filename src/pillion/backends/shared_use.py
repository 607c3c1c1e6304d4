"""A change that is there while anyone uses it: made for the first user, undone behind the last.

Knows nothing of what is changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager


class SharedUse:
    """Many threads may use it at once.

    Args:
        change: inside the context that it gives, the change is there.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[object]]) -> None:
        self._change, self._made = change, ExitStack()
        self._users, self._lock = 0, threading.Lock()

    @contextmanager
    def held(self) -> Generator[None]:
        """Inside, the change is there."""
        with self._lock:
            if self._users == 0:
                self._made.enter_context(self._change())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._made.close()
