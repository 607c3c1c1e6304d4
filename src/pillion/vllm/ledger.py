"""What the scheduler knows of every request: the latest logits, ready to ride on an output.

Every output of a request carries, in `kv_transfer_params`, what has been read of it so far:

    {"pillion": {"prompt": {"safety": [2.59]}, "response": {"safety": [-1.99]}, "read": 8,
                 "seconds": 0.7}}

`read` counts the answer's tokens that `response` covers; `seconds` is what the worker has spent on
probes since its start. A request for an adapter has its name under `adapter`, and is not read.
Where several answers were asked for, vLLM passes on the last one's mapping only, so each carries
them all, under `choices`. Imports no vLLM.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from pillion.vllm.report import Numbers, Read

KEY = "pillion"
"""Where the logits lie in `kv_transfer_params`."""
HISTORY = 64
"""States of an answer that are kept if a stop string may end it: the frontend finds it, and the
engine meanwhile goes on for a few tokens, which are not the answer's."""
FAMILIES = 1024
"""Requests for several answers whose last states are kept: the first may be over before the last
begins."""

_CHILD = re.compile(r"(\d+)_(.+)", re.DOTALL)
"""How vLLM calls the answers of a request for several: index, parent."""

Answer = list[tuple[int, Numbers]]
"""Latest states of an answer: tokens read, logits."""


class Ledger:
    """Latest logits of the requests that live, and of their siblings."""

    def __init__(self) -> None:
        self._keep: dict[str, int] = {}
        self._prompts: dict[str, Numbers] = {}
        self._answers: dict[str, Answer] = {}
        self._families: OrderedDict[str, dict[str, Answer]] = OrderedDict()
        self._adapters: dict[str, str] = {}
        self._gone: list[str] = []
        self._seconds = 0.0

    def enter(self, request: str, may_stop_early: bool, adapter: str | None = None) -> None:
        """A request begins.

        Args:
            request: its id.
            may_stop_early: whether the frontend may end it at an earlier token than the engine.
            adapter: that it runs with; such a request is not read.
        """
        if adapter is not None:
            self._adapters[request] = adapter
        self._keep[request] = HISTORY if may_stop_early else 1
        self._answers[request] = answer = Answer()
        if child := _CHILD.fullmatch(request):
            index, parent = child.groups()
            self._families.setdefault(parent, {})[index] = answer
            self._families.move_to_end(parent)
            if len(self._families) > FAMILIES:
                self._families.popitem(last=False)

    def leave(self, request: str) -> None:
        """A request is over; its last output may still be on the way."""
        self._gone.append(request)

    def forget(self) -> None:
        """Drops those who have left."""
        for request in self._gone:
            self._keep.pop(request, None)
            self._prompts.pop(request, None)
            self._answers.pop(request, None)
            self._adapters.pop(request, None)
        self._gone.clear()

    def add(self, rows: Iterable[tuple[Read, Numbers]], seconds: float = 0.0) -> None:
        """Takes in the read-outs of a step; those of requests that have left are not theirs."""
        self._seconds += seconds
        for read, numbers in rows:
            if read.request not in self._keep:
                continue
            if read.is_prompt:
                self._prompts[read.request] = numbers
            else:
                answer = self._answers[read.request]
                # Who has heard nothing new says what it said before.
                before = (n for count, n in reversed(answer) if count < read.num_tokens)
                answer.append((read.num_tokens, {**next(before, {}), **numbers}))
                del answer[: -self._keep[read.request]]

    def params(self, request: str) -> dict[str, Any]:
        """What an output of the request carries."""
        num_read, response = (self._answers.get(request) or [(0, Numbers())])[-1]
        found: dict[str, Any] = {
            "prompt": self._prompts.get(request, {}),
            "response": response,
            "read": num_read,
            "seconds": self._seconds,
        }
        child = _CHILD.fullmatch(request)
        if child and (family := self._families.get(child.group(2))):
            found["choices"] = {index: list(answer) for index, answer in family.items()}
        if request in self._adapters:
            found["adapter"] = self._adapters[request]
        return {KEY: found}
