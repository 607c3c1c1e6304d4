"""Neither the forward pass nor what follows it makes the host wait for the device.

Tensors without memory (`meta`) stand in for an accelerator's: whatever asks for their values fails.
"""

from __future__ import annotations

import pytest
import torch
from test_side_cache import DIM, LAYERS, probes
from waiting import NeverWait, Waited

from pillion.core import Segment, Tokens
from pillion.probe.group import group
from pillion.vllm.adapter import VllmStepReader
from pillion.vllm.step import Span, VllmStep
from pillion.vllm.taps import VllmTaps

DEVICE = torch.device("meta")
SIZE = 8


def reader() -> VllmStepReader:
    taps = VllmTaps(group(probes(), DEVICE, torch.float32), 600, DEVICE)
    pages = torch.zeros(64, taps.needs.page_numbers, device=DEVICE)
    return VllmStepReader(taps, pages, SIZE, max_requests=4)


def steps(more: int) -> list[VllmStep]:
    """A long prompt in two chunks, a hit, decoding over a block's end, a resumed request."""
    long, short = tuple(range(1, 2 * more // 8 + 3)), (1, 2, 50)
    prompt = Tokens(range(more + 10), [Segment(1, more + 5, "user", 0)])
    second = Tokens(range(20), [Segment(1, 19, "user", 0)])
    end = more + 10
    return [
        VllmStep((Span("a", 0, more, long, prompt),)),
        VllmStep((Span("a", more, end), Span("b", 16, 20, short, second))),
        *(VllmStep((Span("a", end + i, end + i + 1), Span("b", 20 + i, 21 + i))) for i in (0, 1)),
        VllmStep((Span("b", 0, 23, (51, 52, 53), second),), finished=("a",)),
        VllmStep((Span("b", 23, 24), Span("c", 0, 1, (60,), Tokens([1])))),
    ]


@pytest.mark.parametrize("num_tokens", [1, 16, 600])
def test_the_forward_pass_moves_nothing_and_never_waits(num_tokens: int) -> None:
    taps = reader().taps
    hidden = [torch.zeros(num_tokens, DIM, device=DEVICE) for _ in range(LAYERS + 1)]
    slots = torch.zeros(num_tokens, dtype=torch.long, device=DEVICE)
    with NeverWait() as mode, torch.inference_mode():
        taps.see(hidden, slots)
    assert mode.num_operations and not mode.num_uploads


def uploads(more: int) -> list[int]:
    """How often a step of some length moves numbers to the device."""
    cache, counts = reader(), list[int]()
    for step in steps(more):
        with NeverWait() as mode, torch.inference_mode():
            cache.read(step)
        counts.append(mode.num_uploads)
    return counts


def test_what_follows_the_forward_pass_never_waits_and_uploads_as_little_for_long_prompts() -> None:
    short, long = uploads(36), uploads(300)
    assert short == long
    assert 0 < max(long) <= 6 * len(reader().side.groups)


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
