"""Voting probes beyond the common laws."""

from __future__ import annotations

import torch

from pillion.core import Shape
from pillion.probe import build, make_settings
from pillion.probe.vote import Vote


def test_a_slope_prefers_late_tokens_the_longer_the_text_the_more() -> None:
    network = build(
        "attention", Shape(1, 2, 1), make_settings("attention", num_heads=1, normalise=False)
    )
    assert isinstance(network, Vote)
    with torch.no_grad():
        network.slope.fill_(100.0)
        network.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    hidden = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]])[None, None]
    weights = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    wanted = weights[0] * 1 + weights[2] * 3

    torch.testing.assert_close(network(hidden, torch.ones(1, 3, dtype=torch.bool))[0, 0], wanted)
