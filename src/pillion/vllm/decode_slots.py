"""Where the tokens of answers that go on by one token lie: little changes from step to step.

Knows requests, blocks and steps; neither states nor values. Imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pillion.sidecache import DecodeBatch, Numbers, TrackedRequest
from pillion.vllm.step import DecodeRequests


@dataclass
class RequestBlocks:
    """The blocks of a request, in the order of its text, and its prompt's length."""

    blocks: list[int]
    prompt_tokens: int


class DecodeSlots:
    """Finds the slots of answers' next tokens; keeps them while the same answers go on.

    Args:
        block_tokens: tokens of a block.
    """

    def __init__(self, block_tokens: int) -> None:
        self._size = block_tokens
        self._requests: tuple[str, ...] = ()
        self._tracked: list[TrackedRequest] = []
        self._rows, self._pages = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def find(
        self,
        single: DecodeRequests,
        tracked: Mapping[str, TrackedRequest],
        blocks: Mapping[str, RequestBlocks],
    ) -> tuple[DecodeBatch, list[int]]:
        """The answers that go on in a step, and the indices of single tokens that do not.

        Args:
            single: requests of the step that go on by one token.
            tracked: of all requests.
            blocks: of all requests, as they are now.
        """
        requests, starts = single.requests, single.begins
        if requests == self._requests and self._are_next(starts):
            decodes = self._made(requests, starts, single.ids)
            for i in decodes.beginning:
                self._pages[i] = blocks[requests[i]].blocks[int(starts[i]) // self._size]
            return self._placed(decodes), []
        found = [tracked[request] for request in requests]
        each = zip(found, starts.tolist(), strict=True)
        is_next = [one.prompt is not None and one.read_tokens == start for one, start in each]
        others = [i for i, one in enumerate(is_next) if not one]
        if others:
            some = [i for i, one in enumerate(is_next) if one]
            requests, starts = tuple(requests[i] for i in some), starts[some]
            found = [found[i] for i in some]
        # A request that gets other blocks runs as a span, so the next step has other requests.
        self._requests, self._tracked = requests, found
        self._rows = np.array([one.row for one in found], np.int64)
        places = zip(requests, (starts // self._size).tolist(), strict=True)
        self._pages = np.array([blocks[request].blocks[at] for request, at in places], np.int64)
        told = tuple(token for i, token in enumerate(single.ids) if i not in others)
        return self._placed(self._made(requests, starts, told)), others

    def _are_next(self, starts: Numbers) -> bool:
        return [one.read_tokens for one in self._tracked] == starts.tolist()

    def _made(
        self, requests: tuple[str, ...], starts: Numbers, ids: tuple[int, ...]
    ) -> DecodeBatch:
        pages = self._pages
        return DecodeBatch(
            requests, self._tracked, self._rows, starts, pages, pages, self._size, ids
        )

    def _placed(self, decodes: DecodeBatch) -> DecodeBatch:
        """With its tokens named by their slots."""
        decodes.tokens = self._pages * self._size + decodes.offsets
        return decodes
