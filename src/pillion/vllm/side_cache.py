"""The probes' own little KV cache: values of open blocks, a folded state of every full one.

In the forward pass `see` taps the hidden states and drops them. After it `absorb` keeps what the
step has computed: a block that is full becomes one folded state, in pages with the block ids of the
KV cache, so that whoever gets the block from the prefix cache gets the state with it; a block that
is still open keeps its rows, one lane a request. Then `read` gives the logits. Nothing here waits
for the device. Knows no engine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.vllm.layout import Layout
from pillion.vllm.plan import Ints, Plan

ROWS_AT_ONCE = 64
"""Blocks that are folded in one go: temporary memory stays at some tens of megabytes."""
PAGES_AT_ONCE = 4096
"""Block states that are gathered in one go."""
SLOT_BYTES = 4
"""What a token costs beside its share of its block's state: which row of the step it was."""


class SideCache:
    """Rows and states of the requests that an engine runs.

    Args:
        layout: the columns of rows and states.
        max_chunk_tokens: most tokens of a step.
        max_requests: requests that usually run together; more make it grow.
        device: where the model runs.
    """

    def __init__(
        self, layout: Layout, max_chunk_tokens: int, max_requests: int, device: torch.device
    ) -> None:
        self.layout, self.device, self.max_requests = layout, device, max_requests
        # Made once: a captured graph goes on writing where it was captured.
        self._whole_rows = torch.zeros(max_chunk_tokens, layout.row_floats, device=device)
        self.rows = self._whole_rows
        self.slots = torch.zeros(max_chunk_tokens, dtype=torch.long, device=device)
        self._seconds = 0.0

    def bind(self, pages: Float[Tensor, "block column"], block_tokens: int) -> None:
        """Takes the memory that the engine gives.

        Args:
            pages: one row a block, of at least `layout.state_floats` columns.
            block_tokens: tokens of a block.
        """
        self.block_tokens, self._whole_pages = block_tokens, pages
        whole: dict[str, Any] = {"dtype": torch.int32, "device": self.device}
        self._token_of_slot = torch.zeros(len(pages) * block_tokens, **whole)
        self._order = torch.arange(len(self.rows), **whole)
        self._offsets = torch.arange(block_tokens, device=self.device)
        self.ride(self.layout)

    def ride(self, layout: Layout) -> None:
        """Begins anew with the columns of a layout, which `fits` the one that memory was made for.

        Only between requests; whoever owns the prefix cache must clear it.
        """
        self.layout = layout
        self.rows = self._whole_rows[:, : layout.row_floats]
        self.pages = self._whole_pages[:, : layout.state_floats]
        self._neutral = layout.neutral(self.device)
        lanes = self.max_requests
        self.open = self.rows.new_zeros(lanes, self.block_tokens, layout.row_floats)
        self.answers, self.edges = self._neutral.repeat(lanes, 1), self._neutral.repeat(lanes, 1)

    @property
    def buffer_bytes(self) -> int:
        """Memory beside the pages: the rows of a step, and what every lane holds."""
        kept = [self._whole_rows, self.slots, self.open, self.answers, self.edges]
        return sum(t.numel() * t.element_size() for t in kept)

    # -- inside the forward pass

    def see(
        self,
        hidden: Sequence[Float[Tensor, "chunk dim"]],
        slots: Int[Tensor, " slot"] | None,
    ) -> None:
        """Taps a chunk; the states need not be kept.

        Args:
            hidden: states of every layer of `layout.layers`.
            slots: place of each token in the KV cache; None in a run that only warms up.
        """
        begin, num_tokens = time.perf_counter(), len(hidden[0])
        self.layout.tap(hidden, self.rows[:num_tokens])
        if slots is not None:
            self.slots[:num_tokens].copy_(slots[:num_tokens])
        self._seconds += time.perf_counter() - begin

    def take_seconds(self) -> float:
        """Seconds that the host has spent in `see` since the last call."""
        taken, self._seconds = self._seconds, 0.0
        return taken

    # -- after it

    def absorb(self, plan: Plan, num_lanes: int) -> None:
        """Keeps what a step has computed, in the order of `Plan`.

        Args:
            plan: of the step.
            num_lanes: lanes that are given out, over all.
        """
        self._make_room(num_lanes)
        if plan.num_tokens:
            seen = self.slots[: plan.num_tokens]
            self._token_of_slot[seen] = self._order[: plan.num_tokens]
        self._keep(plan.head)
        for lanes, blocks in self._batches(plan.closed):
            self.pages[blocks] = self._fold(self.open[lanes])
        for (blocks,) in self._batches(plan.fresh):
            self.pages[blocks] = self._fold(self._fresh_rows(blocks))
        self._begin_answers(plan)
        self._keep(plan.tail)
        for (lanes,), states in self._gathered(plan.grown):
            self.answers[lanes] = self.layout.merge(self.answers[lanes], states)

    def read(self, plan: Plan) -> Float[Tensor, "read output"]:
        """Logits of every read-out of the plan, in its order; still on the device."""
        parts: list[Tensor] = []
        for (lanes, ends), states in self._gathered(plan.prompts):
            tail = self._fold(self.open[lanes], end=ends)
            parts.append(self.layout.finish(self.layout.merge(states, tail)))
        for lanes, begins, ends in self._batches(plan.answers):
            tail = self._fold(self.open[lanes], begins, ends)
            parts.append(self.layout.finish(self.layout.merge(self.answers[lanes], tail)))
        return torch.cat(parts) if parts else self.rows.new_zeros(0, sum(self.layout.outputs))

    # -- inside

    def _make_room(self, num_lanes: int) -> None:
        """Doubles the lanes: requests that were preempted keep theirs."""
        while num_lanes > len(self.open):
            self.open = torch.cat([self.open, torch.zeros_like(self.open)])
            self.answers = self.answers.repeat(2, 1)
            self.edges = self.edges.repeat(2, 1)

    def _begin_answers(self, plan: Plan) -> None:
        for (lanes,) in self._batches(plan.begun):
            self.answers[lanes] = self._neutral
        for (lanes,) in self._batches(plan.resumed):
            self.answers[lanes] = self.edges[lanes]
        for lanes, offsets in self._batches(plan.open_edges):
            self._set_edges(lanes, self._fold(self.open[lanes], offsets))
        for lanes, blocks, offsets in self._batches(plan.fresh_edges):
            self._set_edges(lanes, self._fold(self._fresh_rows(blocks), offsets))

    def _set_edges(
        self, lanes: Int[Tensor, " batch"], states: Float[Tensor, "batch state"]
    ) -> None:
        self.edges[lanes] = states
        self.answers[lanes] = states

    def _keep(self, tokens: Sequence[Ints]) -> None:
        """Copies tokens of the step to open blocks."""
        if tokens:
            rows, slots = self._upload(tokens)
            self.open.view(-1, self.layout.row_floats)[rows] = self._of_slots(slots)

    def _of_slots(self, slots: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch column"]:
        return self.rows[self._token_of_slot[slots]]

    def _fresh_rows(self, blocks: Int[Tensor, " batch"]) -> Float[Tensor, "batch token column"]:
        return self._of_slots(blocks[:, None] * self.block_tokens + self._offsets)

    def _fold(
        self,
        rows: Float[Tensor, "batch token column"],
        begin: Int[Tensor, " batch"] | None = None,
        end: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch state"]:
        """States of rows from an offset (or the block's first) to another (or its last)."""
        mask = torch.ones(rows.shape[:2], dtype=torch.bool, device=self.device)
        if begin is not None:
            mask = mask & (self._offsets >= begin[:, None])
        if end is not None:
            mask = mask & (self._offsets < end[:, None])
        return self.layout.summarise(rows, mask)

    def _gathered(
        self, jobs: Sequence[tuple[Ints, list[int]]]
    ) -> Iterator[tuple[Sequence[Int[Tensor, " batch"]], Float[Tensor, "batch state"]]]:
        """For jobs of (keys, block ids): columns of keys, and the merged states of the blocks."""
        for batch in _slices(jobs):
            longest = max(len(blocks) for _, blocks in batch)
            padded = [(len(b), *b, *[0] * (longest - len(b))) for _, b in batch]
            counts, *columns = self._upload(padded)
            keys = self._upload([key for key, _ in batch])
            if not columns:
                yield keys, self._neutral.expand(len(batch), -1)
                continue
            places = torch.stack(columns, 1)
            is_block = torch.arange(longest, device=self.device) < counts[:, None]
            states = torch.where(is_block[..., None], self.pages[places], self._neutral)
            yield keys, self._merged(states)

    def _merged(self, states: Float[Tensor, "batch block state"]) -> Float[Tensor, "batch state"]:
        """Neighbours with neighbours, until one is left: the order of the text is kept."""
        batch, blocks, width = states.shape
        while blocks > 1:
            if blocks % 2:
                states = torch.cat([states, self._neutral.expand(batch, 1, -1)], 1)
            pairs = states.reshape(-1, 2, width)
            states = self.layout.merge(pairs[:, 0], pairs[:, 1]).view(batch, -1, width)
            blocks = states.shape[1]
        return states[:, 0]

    def _batches(self, tuples: Sequence[Ints]) -> Iterator[Sequence[Int[Tensor, " batch"]]]:
        for start in range(0, len(tuples), ROWS_AT_ONCE):
            yield self._upload(tuples[start : start + ROWS_AT_ONCE])

    def _upload(self, tuples: Sequence[Ints]) -> Sequence[Int[Tensor, " batch"]]:
        """Columns of a list of tuples, on the device, without waiting for it."""
        # Only from pinned memory is a copy not waited for.
        pin = self.device.type not in {"cpu", "meta"}
        columns = torch.tensor(list(zip(*tuples, strict=True)), pin_memory=pin)
        return columns.to(self.device, non_blocking=True).unbind(0)


def _slices(
    jobs: Sequence[tuple[Ints, list[int]]],
) -> Iterator[Sequence[tuple[Ints, list[int]]]]:
    """Jobs in their order, cut where a batch (padded to its longest) would grow too large."""
    start = longest = 0
    for place, (_, blocks) in enumerate(jobs):
        longest = max(longest, len(blocks))
        count = place - start + 1
        if place > start and (count > ROWS_AT_ONCE or count * longest > PAGES_AT_ONCE):
            yield jobs[start:place]
            start, longest = place, len(blocks)
    if len(jobs) > start:
        yield jobs[start:]
