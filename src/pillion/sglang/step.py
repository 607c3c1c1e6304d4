"""What a step of SGLang computes, taken from its batch. Imports no SGLang."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from pillion.riding.turns import PromptTurns, prompt_turns
from pillion.sglang.adapter import Row, SglangStepReader

ATTRIBUTE = "pillion"
"""Attribute of what is ours: of SGLang's requests, batches, models and outputs."""
SECRET = "pillion_secret"
"""Beside a prompt's turns: what shows that our own server tells them."""

_ids = count()


class SglangStep(NamedTuple):
    """A step, as `SglangStepReader.start` takes it."""

    rows: list[Row]
    slots: Int[Tensor, " token"]
    history: Callable[[int], Int[Tensor, " past"]]
    ids: Int[Tensor, " token"]


@dataclass
class RequestRecord:
    """What we know of a request of SGLang; lives as long as it.

    Attributes:
        request: its id, which no other request ever has: SGLang's may be a client's.
        told: its prompt.
        found: what was read of it up to its latest token that SGLang has taken in.
    """

    request: str
    told: PromptTurns
    found: dict[str, Any] | None = None


def record_of(req: Any, reader: SglangStepReader, secret: str) -> RequestRecord:
    """What we know of a request; it leaves the side cache where SGLang lets go of it."""
    known: RequestRecord | None = vars(req).get(ATTRIBUTE)
    if known is None:
        params = req.sampling_params.custom_params or {}
        mine = params if params.get(SECRET) == secret else {}
        known = RequestRecord(str(next(_ids)), prompt_turns(tuple(req.origin_input_ids), mine))
        setattr(req, ATTRIBUTE, known)
        weakref.finalize(req, reader.leave, known.request)
    return known


def step_of(
    batch: Any, seq_lens: Tensor, table: Tensor, reader: SglangStepReader, secret: str
) -> SglangStep:
    """The step that a batch of SGLang's scheduler is.

    Args:
        batch: a `ScheduleBatch`; its slots are those of the allocator.
        seq_lens: tokens of each request when the step is over, on the host.
        table: `req_to_token`: a row a request, with the slots of its tokens. Rows are written
            anew where two requests compute the same, so they are read in each step.
        reader: of the side cache.
        secret: see `SECRET`.
    """
    if batch.forward_mode.is_decode():
        ends = seq_lens.tolist()
        begins = [end - 1 for end in ends]
    else:
        begins = list(batch.prefix_lens)
        ends = [begin + num for begin, num in zip(begins, batch.extend_lens, strict=True)]
    known = [record_of(req, reader, secret) for req in batch.reqs]
    rows = [
        Row(one.request, begin, end, one.told)
        for one, begin, end in zip(known, begins, ends, strict=True)
    ]
    places = batch.req_pool_indices

    def history(index: int) -> Int[Tensor, " past"]:
        return table[places[index], : ends[index]].long().cpu()

    return SglangStep(
        rows, batch.out_cache_loc.long().cpu(), history, batch.input_ids.to(torch.long)
    )
