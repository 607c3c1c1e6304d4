"""Neither the forward pass nor what follows it makes the host wait for the device.

Tensors without memory (`meta`) stand in for an accelerator's: whatever asks for their values fails.
"""

from __future__ import annotations

import pytest
import torch
from test_side_cache import DIM, LAYERS, probes
from waiting import NeverWait, Waited

from pillion.vllm.layout import Layout
from pillion.vllm.plan import Span, Step, Tracker
from pillion.vllm.side_cache import SideCache

DEVICE = torch.device("meta")
SIZE = 8


def side_cache() -> SideCache:
    cache = SideCache(Layout(probes(), DEVICE), 600, max_requests=4, device=DEVICE)
    cache.bind(torch.zeros(64, cache.layout.state_floats, device=DEVICE), SIZE)
    return cache


def steps() -> list[Step]:
    """A long prompt in two chunks, a hit, decoding over a block's end, a resumed request."""
    long, short = tuple(range(1, 41)), (1, 2, 50)
    return [
        Step((Span("a", 0, 300, long, True, 310),)),
        Step((Span("a", 300, 310), Span("b", 16, 20, short, True, 20))),
        *(Step((Span("a", i, i + 1, (40 + i,)), Span("b", i - 290, i - 289))) for i in (310, 311)),
        Step((Span("b", 0, 23, (51, 52, 53), starts=True),), finished=("a",)),
        Step((Span("b", 23, 24), Span("c", 0, 1, (60,), True, 1))),
    ]


@pytest.mark.parametrize("num_tokens", [1, 16, 600])
def test_the_forward_pass_moves_nothing_and_never_waits(num_tokens: int) -> None:
    cache = side_cache()
    hidden = [torch.zeros(num_tokens, DIM, device=DEVICE) for _ in range(LAYERS + 1)]
    slots = torch.zeros(num_tokens, dtype=torch.long, device=DEVICE)
    with NeverWait() as mode, torch.inference_mode():
        cache.see(hidden, slots)
    assert mode.num_operations and not mode.num_uploads


def test_what_follows_the_forward_pass_uploads_a_few_indices_and_never_waits() -> None:
    cache, tracker = side_cache(), Tracker(SIZE)
    uploads: list[int] = []
    for step in steps():
        plan = tracker.plan(step)
        with NeverWait() as mode, torch.inference_mode():
            cache.absorb(plan, tracker.num_lanes)
            cache.read(plan)
        uploads.append(mode.num_uploads)
    assert max(uploads) <= 8, "uploads do not depend on the number of tokens"


def test_the_mode_notices_what_waits() -> None:
    one = torch.ones(3)
    for waits in (
        lambda: one.sum().item(),
        lambda: bool(one.all()),
        lambda: one[one > 0],
        lambda: one.nonzero(),
        lambda: torch.repeat_interleave(one, one.long()),
    ):
        with pytest.raises(Waited), NeverWait():
            waits()
