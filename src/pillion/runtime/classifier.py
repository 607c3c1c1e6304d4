"""Verdicts of token rows without generating, in the gaps between an engine's steps.

Calls that wait run together; owners take turns, and the calls of an owner, row by row.
Knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pillion.core import Verdict, as_tokens
from pillion.core.batching import batches_by_length
from pillion.probe import Artefact
from pillion.probe.group import Group, group
from pillion.runtime.chunked_passes import ChunkedPasses, OverBudget
from pillion.runtime.exits import ExitReading, may_leave
from pillion.runtime.reading import Reading

ROUND_PIECES = 4
"""Pieces whose rows are sorted by length together: enough for little padding, few enough for fair
turns."""

Row = Sequence[int]
Found = list[dict[str, Verdict]]


@dataclass(eq=False)
class PendingCall:
    """A call that waits.

    Attributes:
        rows: token ids.
        artefacts: the probes.
        owner: of the call; owners take turns.
        answer: of its caller.
        taken: rows whose turn has come.
        found: verdicts a row, those that are there.
    """

    rows: Sequence[Row]
    artefacts: Sequence[Artefact]
    owner: str
    answer: asyncio.Future[Found]
    taken: int = 0
    found: dict[int, dict[str, Verdict]] = field(default_factory=dict[int, dict[str, Verdict]])


Place = tuple[PendingCall, int]
"""A row of a call."""


class RowClassifier:
    """Runs rows through as many blocks as their probes read.

    Args:
        passes: runs them, in the gaps between steps.
    """

    def __init__(self, passes: ChunkedPasses) -> None:
        self.passes = passes
        self._waiting: deque[PendingCall] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._grouped: tuple[Sequence[Artefact], list[Group]] | None = None

    async def classify(
        self, rows: Sequence[Row], artefacts: Sequence[Artefact], owner: str = ""
    ) -> Found:
        """Verdicts of every row; rows of calls that wait go together.

        Args:
            rows: token ids of one or more texts.
            artefacts: the probes.
            owner: owners take turns.

        Raises:
            StateError: a hidden state is not finite.
            RunError: the model cannot be had any more.
        """
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(PendingCall(rows, artefacts, owner, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
            self._worker.add_done_callback(self._ended)
        return await answer

    async def _work(self) -> None:
        """Serves until no call waits; an error goes to the calls that it concerns."""
        while self._waiting:
            places = self._round()
            while places:
                lengths = [len(call.rows[i]) for call, i in places]
                first = batches_by_length(lengths, self.passes.budget())[0]
                batch = [places[i] for i in first]
                try:
                    await self._serve(batch)
                except OverBudget:  # smaller ones, then
                    continue
                places = [place for i, place in enumerate(places) if i not in set(first)]
                places = [(call, i) for call, i in places if not call.answer.done()]
        self._worker = None

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """Where the worker itself failed, its error ends all waiting calls."""
        if worker.cancelled() or worker.exception() is None:
            return
        calls, self._waiting, self._worker = list(self._waiting), deque[PendingCall](), None
        for call in calls:
            _settle(call, worker.exception())

    def _round(self) -> list[Place]:
        """The next rows, owner by owner in turn, of all calls for the first call's probes."""
        self._waiting = deque(call for call in self._waiting if not call.answer.done())
        if not self._waiting:
            return []
        artefacts = list(self._waiting[0].artefacts)
        owners: dict[str, list[PendingCall]] = {}
        for call in self._waiting:
            if list(call.artefacts) == artefacts:
                owners.setdefault(call.owner, []).append(call)
        places: list[Place] = []
        turns, tokens = deque(_rows(calls) for calls in owners.values()), 0
        most = ROUND_PIECES * self.passes.budget()
        while turns and tokens < most:
            turn = turns.popleft()
            place = next(turn, None)
            if place is not None:
                turns.append(turn)
                places.append(place)
                tokens += len(place[0].rows[place[1]])
        # Finished calls go; calls that had a turn queue behind those that had none.
        left = [call for call in self._waiting if call.taken < len(call.rows)]
        served = {call for call, _ in places}
        self._waiting = deque(sorted(left, key=served.__contains__))
        return places

    async def _serve(self, batch: Sequence[Place]) -> None:
        run = asyncio.create_task(asyncio.to_thread(self._read, batch))
        await asyncio.wait([run])
        error = run.exception()
        if isinstance(error, OverBudget):
            raise error
        calls = list(dict.fromkeys(call for call, _ in batch))
        if isinstance(error, Exception) and len(calls) > 1:
            for call in calls:  # the call at fault fails alone
                await self._serve([place for place in batch if place[0] is call])
            return
        for place, verdicts in zip(batch, [] if error else run.result(), strict=not error):
            call, row = place
            call.found[row] = verdicts
        for call in calls:
            _settle(call, error)

    def _read(self, batch: Sequence[Place]) -> Found:
        backend = self.passes.backend
        artefacts = batch[0][0].artefacts
        rows = [call.rows[i] for call, i in batch]
        # A row that runs in pieces goes through all layers piece by piece.
        if may_leave(artefacts) and sum(map(len, rows)) <= self.passes.budget():
            return self._read_leaving(artefacts, rows)
        reading = Reading(artefacts, backend.device, backend.dtype, backend.reasoning_ids)
        reading.expect([as_tokens(row) for row in rows])
        self.passes.run(reading, reading.layers, rows)
        return reading.verdicts()

    def _read_leaving(self, artefacts: Sequence[Artefact], rows: Sequence[Row]) -> Found:
        backend = self.passes.backend
        if self._grouped is None or list(self._grouped[0]) != list(artefacts):
            self._grouped = (artefacts, group(artefacts, backend.device, backend.dtype))
        own = [as_tokens(row) for row in rows]
        reading = ExitReading(self._grouped[1], own, backend.reasoning_ids)
        self.passes.run_early_exit(reading, reading.layers, rows)
        return reading.verdicts()


def _rows(calls: Sequence[PendingCall]) -> Iterator[Place]:
    """The rows of an owner whose turn has not come, one of each call in turn.

    A call of few rows then does not wait for a large one that came before it.
    """
    left = deque(calls)
    while left:
        call = left.popleft()
        if call.taken < len(call.rows):
            call.taken += 1
            left.append(call)
            yield call, call.taken - 1


def _settle(call: PendingCall, error: BaseException | None) -> None:
    if call.answer.done():  # the caller has gone
        return
    if error is not None:
        call.answer.set_exception(error)
    elif len(call.found) == len(call.rows):
        call.answer.set_result([call.found[i] for i in range(len(call.rows))])
