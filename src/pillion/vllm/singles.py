"""Answers that go on by one token, step after step: what changes from one to the next is little.

Knows lanes, blocks and steps; neither states nor values. Imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pillion.sidecache import Going, Lane, Numbers
from pillion.vllm.step import Singles


@dataclass
class Track:
    """The blocks of a request, in the order of its text, and its prompt's length."""

    blocks: list[int]
    prompt_tokens: int


class Goer:
    """Finds where the tokens of answers lie that go on; kept as long as the same ones do.

    Args:
        block_tokens: tokens of a block.
    """

    def __init__(self, block_tokens: int) -> None:
        self._size = block_tokens
        self._requests: tuple[str, ...] = ()
        self._lanes: list[Lane] = []
        self._rows, self._pages = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def going(
        self, singles: Singles, lanes: Mapping[str, Lane], tracks: Mapping[str, Track]
    ) -> tuple[Going, list[int]]:
        """The answers that go on in a step, and which of its singles are none of them.

        Args:
            singles: of the step.
            lanes: of all requests.
            tracks: of all requests, with the blocks that they have now.
        """
        requests, starts = singles.requests, singles.begins
        if requests == self._requests and self._are_next(starts):
            going = self._made(requests, starts, singles.ids)
            for i in going.beginning:
                self._pages[i] = tracks[requests[i]].blocks[int(starts[i]) // self._size]
            return self._placed(going), []
        found = [lanes[request] for request in requests]
        each = zip(found, starts.tolist(), strict=True)
        is_next = [lane.prompt is not None and lane.read_tokens == start for lane, start in each]
        others = [i for i, one in enumerate(is_next) if not one]
        if others:
            some = [i for i, one in enumerate(is_next) if one]
            requests, starts = tuple(requests[i] for i in some), starts[some]
            found = [found[i] for i in some]
        # Who gets other blocks runs as a span, so that the requests of the next step are others.
        self._requests, self._lanes = requests, found
        self._rows = np.array([lane.row for lane in found], np.int64)
        places = zip(requests, (starts // self._size).tolist(), strict=True)
        self._pages = np.array([tracks[request].blocks[at] for request, at in places], np.int64)
        told = tuple(token for i, token in enumerate(singles.ids) if i not in others)
        return self._placed(self._made(requests, starts, told)), others

    def _are_next(self, starts: Numbers) -> bool:
        return [lane.read_tokens for lane in self._lanes] == starts.tolist()

    def _made(self, requests: tuple[str, ...], starts: Numbers, ids: tuple[int, ...]) -> Going:
        pages = self._pages
        return Going(requests, self._lanes, self._rows, starts, pages, pages, self._size, ids)

    def _placed(self, going: Going) -> Going:
        """With its tokens named by their slots."""
        going.tokens = self._pages * self._size + going.offsets
        return going
