"""Passes in the gaps between an engine's steps, each about as long as a step where there are any.

A stream waits for at most one piece, whatever is read beside it. Knows no probe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from pillion.backends import Backend, EarlyExitWatcher, Watcher
from pillion.runtime.padding import pad_batch

IDLE_TOKENS = 2048
"""Padded tokens of a pass while no answer is generated."""
LEAST_TOKENS, FIRST_TOKENS = 16, 128
"""Of a piece: the fewest, since a pass has a price of its own, and those of the first one."""
STEPS = 1.5
"""A piece may take as long as so many steps: a stream then waits for 2.5 steps instead of one."""


class OverBudget(Exception):
    """A batch has become too large: streams that began meanwhile would wait too long for it."""


class ChunkedPasses:
    """Runs rows of tokens piece by piece.

    Args:
        backend: the model.
        alone: a context that holds the model alone; entered once a piece, in a thread.
        step_seconds: how long a step of generation takes; None while none runs.

    Attributes:
        seconds: time spent in passes so far.
    """

    def __init__(
        self,
        backend: Backend,
        alone: Callable[[], AbstractContextManager[None]],
        step_seconds: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.backend, self.alone, self.step_seconds = backend, alone, step_seconds
        self.seconds = 0.0
        self._tokens = float(FIRST_TOKENS)

    def budget(self) -> int:
        """Padded tokens that the next piece may have."""
        return IDLE_TOKENS if self.step_seconds() is None else int(self._tokens)

    def learn(self, tokens: int, seconds: float) -> None:
        """Moves the size of a piece to where it takes as long as it may.

        By what the last one took, and not by a rate: a small pass costs nearly what a middling one
        costs, so that a rate would lead to ever smaller ones.
        """
        step = self.step_seconds()
        if step is None:
            return
        room = STEPS * step / max(seconds, 1e-6)
        if room < 1:
            wanted = min(self._tokens, tokens * max(room, 0.5))
        elif tokens > self._tokens / 2:
            wanted = max(self._tokens, tokens * min(room, 1.5))
        else:
            return
        self._tokens = min(float(IDLE_TOKENS), max(float(LEAST_TOKENS), wanted))

    def run(self, watcher: Watcher, layers: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """Shows the watcher one pass over the rows; a single row too long for it, in several.

        Raises:
            OverBudget: the batch was made while no stream ran, and one runs now.
        """
        if len(rows) == 1:
            self._run_row(watcher, layers, rows[0])
            return
        ids, mask = pad_batch(rows)
        with self.alone():
            if ids.numel() > self.budget():
                raise OverBudget
            self._pass(watcher, layers, ids, mask, None)

    def run_early_exit(
        self, watcher: EarlyExitWatcher, layers: Sequence[int], rows: Sequence[Sequence[int]]
    ) -> None:
        """Shows the watcher one pass over the rows, which leave it as the watcher says.

        Raises:
            OverBudget: as of `run`, and for a single row.
        """
        ids, mask = pad_batch(rows)
        with self.alone():
            if ids.numel() > self.budget():
                raise OverBudget
            begin = time.perf_counter()
            self.backend.run_early_exit(watcher, layers, ids, mask)
            seconds = time.perf_counter() - begin
            self.seconds += seconds
            self.learn(ids.numel(), seconds)

    def _run_row(self, watcher: Watcher, layers: Sequence[int], row: Sequence[int]) -> None:
        cache, done = None, 0
        while done < len(row):
            with self.alone():  # while this waited, a stream may have begun
                size = min(self.budget(), len(row) - done)
                if size < len(row) and cache is None:
                    cache = self.backend.new_cache()
                ids = torch.tensor([row[done : done + size]])
                done += size
                self._pass(watcher, layers, ids, torch.ones(1, done, dtype=torch.bool), cache)

    def _pass(
        self,
        watcher: Watcher,
        layers: Sequence[int],
        ids: torch.Tensor,
        mask: torch.Tensor,
        cache: object | None,
    ) -> None:
        begin = time.perf_counter()
        with self.backend.watch(watcher, layers):
            self.backend.forward(ids, mask, cache)
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        self.learn(ids.numel(), seconds)
