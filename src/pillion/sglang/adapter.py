"""Steps of SGLang as a side cache wants them: which tokens belong to which request and page.

SGLang runs a step's requests one after the other, each from the end of what the cache has of it.
Its slots are places in the KV cache, and a page is so many neighbouring slots. Imports no SGLang.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from pillion.backends.paged import Chunk, PagedStep
from pillion.probe import Artefact
from pillion.riding.latest_logits import LatestLogits
from pillion.riding.report import Report
from pillion.riding.turns import PromptTurns
from pillion.runtime.paged_reading import PagedReading
from pillion.sidecache.tracked import chunks_of


class Row(NamedTuple):
    """The tokens of one request in a step.

    Attributes:
        request: an id that no other request ever has.
        begin: position of the first in the request.
        end: position after the last.
        told: its prompt.
    """

    request: str
    begin: int
    end: int
    told: PromptTurns


class SglangStepReader:
    """Reads the steps of SGLang into a side cache.

    Args:
        artefacts: the probes; their names must differ.
        device: where the model runs.
        dtype: of the model's states.
        num_pages: of the KV cache.
        page_tokens: slots of a page.
        reasoning: tokens around the reasoning in an answer, which scopes leave out.

    Attributes:
        reading: what is shown the states of a step.
        latest: logits of every request, up to the last step that `settle` was called for.
    """

    def __init__(
        self,
        artefacts: Sequence[Artefact],
        device: torch.device,
        dtype: torch.dtype,
        num_pages: int,
        page_tokens: int,
        reasoning: tuple[int, int] | None = None,
    ) -> None:
        self.reading = PagedReading(artefacts, device, dtype, num_pages, page_tokens, reasoning)
        self.latest, self._size, self._num_steps = LatestLogits(), page_tokens, 0
        self._left, self._unsettled = deque[str](), deque[tuple[int, Report]]()

    def leave(self, request: str) -> None:
        """A request is over; may be called at any time, from any thread."""
        self._left.append(request)

    def start(
        self,
        rows: Sequence[Row],
        slots: Int[Tensor, " token"],
        history: Callable[[int], Int[Tensor, " past"]],
        ids: Int[Tensor, " token"],
    ) -> None:
        """A step begins.

        Args:
            rows: in the order of their tokens.
            slots: of each token; on the host.
            history: of a row's index, the slots of all tokens of its request so far.
            ids: the tokens.
        """
        self._drop()
        chunks, owners, first = list[Chunk](), list[int](), 0
        for index, row in enumerate(rows):
            self._follow(row)
            tracked = self.reading.side.tracked.get(row.request)
            places, prompt_tokens = range(row.begin, row.end), len(row.told.tokens)
            own = list(chunks_of(row.request, places, prompt_tokens, tracked, first))
            chunks += own
            owners += [index] * len(own)
            first += row.end - row.begin
        step = PagedStep(tuple(chunks), slots, lambda index: history(owners[index]), ids)
        self.reading.start(step)

    def read(self) -> int:
        """All layers have been seen: keeps what was computed and reads out, without waiting.

        Returns:
            the number of the step, for `settle`.
        """
        report = Report.of(*self.reading.read())
        report.seconds, self.reading.seconds = self.reading.seconds, 0.0
        self._num_steps += 1
        self._unsettled.append((self._num_steps, report))
        return self._num_steps

    def settle(self, step: int) -> None:
        """Puts what was read up to a step into `latest`; later steps may run already."""
        while self._unsettled and self._unsettled[0][0] <= step:
            _, report = self._unsettled.popleft()
            self.latest.add(report.rows(), report.seconds)

    # -- inside

    def _drop(self) -> None:
        while self._left:
            request = self._left.popleft()
            self.reading.side.leave(request)
            self.latest.leave(request)
        self.latest.forget()

    def _follow(self, row: Row) -> None:
        """A request begins, begins again after it was retracted, or goes on."""
        side, prompt = self.reading.side, row.told.tokens
        if (tracked := side.tracked.get(row.request)) is None:
            assert row.begin % self._size == 0, "a prefix is shared in whole pages"
            side.enter(row.request, prompt, answering=row.told.answering)
            self.latest.enter(row.request)
        elif tracked.prompt is not None and row.begin <= len(prompt) != tracked.read_tokens:
            # All of its answer runs again.
            side.again(row.request, prompt)
