"""The latest logits of every request, as its outputs carry them.

Every output of a request carries what has been read of it so far (with vLLM in
`kv_transfer_params`):

    {"pillion": {"prompt": {"safety": [2.59]}, "response": {"safety": [-1.99]}, "read": 8,
                 "seconds": 0.7}}

`read` counts the answer's tokens that `response` covers; `seconds` is what the worker has spent on
probes since its start. A request for an adapter has its name under `adapter`, and is not read.
Where several answers were asked for, the frontend adds `choices`. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pillion.riding.report import LogitsByProbe, Readout

KEY = "pillion"
"""Where the logits lie in what an output carries."""
REFUSAL = "refusal"
"""Beside the logits of an output: what is said in the place of an answer."""


class LatestLogits:
    """The latest logits of all running requests."""

    def __init__(self) -> None:
        self._prompts: dict[str, LogitsByProbe] = {}
        self._answers: dict[str, tuple[int, LogitsByProbe]] = {}
        self._adapters: dict[str, str] = {}
        self._gone: list[str] = []
        self._seconds = 0.0

    def enter(self, request: str, adapter: str | None = None) -> None:
        """A request begins.

        Args:
            request: its id.
            adapter: that it runs with; such a request is not read.
        """
        if adapter is not None:
            self._adapters[request] = adapter
        self._answers[request] = (0, LogitsByProbe())

    def leave(self, request: str) -> None:
        """A request is over; its last output may still be on the way."""
        self._gone.append(request)

    def forget(self) -> None:
        """Drops the requests that have left."""
        for request in self._gone:
            self._prompts.pop(request, None)
            self._answers.pop(request, None)
            self._adapters.pop(request, None)
        self._gone.clear()

    def add(self, rows: Iterable[tuple[Readout, LogitsByProbe]], seconds: float = 0.0) -> None:
        """Takes in the read-outs of a step; skips requests that have left."""
        self._seconds += seconds
        for (request, num_tokens, is_prompt), numbers in rows:
            known = self._answers.get(request)
            if known is None:
                continue
            if is_prompt:
                self._prompts[request] = numbers
                continue
            # A probe that read no new token keeps its last logits; where the answer was run again,
            # every probe has read it again.
            count, before = known
            if count < num_tokens and not before.keys() <= numbers.keys():
                numbers = {**before, **numbers}
            self._answers[request] = num_tokens, numbers

    def params(self, request: str) -> dict[str, Any]:
        """What an output of the request carries."""
        num_read, response = self._answers.get(request) or (0, LogitsByProbe())
        found: dict[str, Any] = {
            "prompt": self._prompts.get(request, {}),
            "response": response,
            "read": num_read,
            "seconds": self._seconds,
        }
        if self._adapters and request in self._adapters:
            found["adapter"] = self._adapters[request]
        return {KEY: found}
