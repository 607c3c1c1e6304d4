"""How a graph probe begins."""

from __future__ import annotations

import pytest

from pillion.core import Shape
from pillion.probe import build, make_settings


@pytest.mark.parametrize("width", [16, 64])
def test_weights_begin_so_that_every_step_keeps_the_size_of_its_values(width: int) -> None:
    network = build("glot", Shape(1, 256, 8), make_settings("glot", width=width))
    for name in ("node", "block", "edge", "score_in"):
        weight = getattr(network, name)
        rows = weight.shape[-2] if name != "edge" else width
        assert 0.8 < weight.std() * rows**0.5 < 1.2, name
