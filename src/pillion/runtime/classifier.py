"""Verdicts of token rows without generating, in the gaps between an engine's steps.

Calls that come while a batch runs wait together and run as one. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pillion.backends import Backend
from pillion.core import Verdict, as_tokens
from pillion.core.batching import batches_by_length
from pillion.probe import Artefact
from pillion.runtime.padding import pad_batch
from pillion.runtime.reading import Reading

BATCH_TOKENS = 2048
"""Padded tokens of a batch: what a step of the engine waits for at most."""

Rows = Sequence[Sequence[int]]
Found = list[dict[str, Verdict]]


@dataclass(frozen=True)
class Job:
    """A call that waits."""

    rows: Rows
    artefacts: Sequence[Artefact]
    answer: asyncio.Future[Found]


class Classifier:
    """Runs rows through as many blocks as their probes read.

    Args:
        backend: the model.
        alone: a context in which nobody else runs the model; entered in a thread.

    Attributes:
        seconds: time spent in passes so far.
    """

    def __init__(self, backend: Backend, alone: Callable[[], AbstractContextManager[None]]) -> None:
        self.backend, self.alone = backend, alone
        self.seconds = 0.0
        self._waiting: list[Job] = []
        self._worker: asyncio.Task[None] | None = None

    async def classify(self, rows: Rows, artefacts: Sequence[Artefact]) -> Found:
        """Verdicts of every row; rows of calls that wait go together.

        Raises:
            StateError: a hidden state is not finite.
            RunError: the model cannot be had any more.
        """
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(Job(rows, artefacts, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        """Serves until nobody waits; what goes wrong is said to those whom it concerns."""
        while self._waiting:
            jobs = self._alike()
            run = asyncio.create_task(self._run(jobs))
            await asyncio.wait([run])
            error = run.exception()
            found = [] if error else run.result()
            for job in jobs:
                part, found = found[: len(job.rows)], found[len(job.rows) :]
                _settle(job.answer, error or part)
        self._worker = None

    def _alike(self) -> list[Job]:
        """Those who wait for the same probes as the first."""
        first = self._waiting[0].artefacts
        jobs = [job for job in self._waiting if list(job.artefacts) == list(first)]
        self._waiting = [job for job in self._waiting if job not in jobs]
        return jobs

    async def _run(self, jobs: Sequence[Job]) -> Found:
        rows = [row for job in jobs for row in job.rows]
        out: Found = [{} for _ in rows]
        reading = Reading(jobs[0].artefacts, self.backend.device, self.backend.dtype)
        for batch in batches_by_length([len(row) for row in rows], BATCH_TOKENS):
            found = await asyncio.to_thread(self._pass, reading, [rows[i] for i in batch])
            for row, verdicts in zip(batch, found, strict=True):
                out[row] = verdicts
        return out

    def _pass(self, reading: Reading, rows: Rows) -> Found:
        with self.alone():
            begin = time.perf_counter()
            reading.expect([as_tokens(row) for row in rows])
            with self.backend.watch(reading, reading.layers):
                self.backend.forward(*pad_batch(rows))
            self.seconds += time.perf_counter() - begin
        return reading.verdicts()


def _settle(answer: asyncio.Future[Found], result: Found | BaseException) -> None:
    if answer.done():  # whoever asked has gone
        return
    if isinstance(result, BaseException):
        answer.set_exception(result)
    else:
        answer.set_result(result)
