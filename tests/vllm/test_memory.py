"""What riding costs in memory: the marks, and the sentence printed at start."""

from __future__ import annotations

import pytest
import torch

from pillion.core import ModelIdentity, Shape
from pillion.probe import Artefact, build
from pillion.probe.gate import GateSettings
from pillion.probe.group import group
from pillion.vllm.adapter import SLOT_BYTES
from pillion.vllm.footprint import Footprint
from pillion.vllm.taps import MemoryNeeds
from tiny_models import make_artefact

BLOCK_TOKENS = 16
"""Of vLLM on a GPU, unless it is told otherwise."""


def gates(num_layers: int, count: int = 8) -> list[Artefact]:
    """Binary gates of eight heads on every layer; the width of states does not matter here."""
    identity = ModelIdentity("none", "w", "t", "c", num_layers, 8, "float32", 4096)
    made: list[Artefact] = []
    for number in range(count):
        plain = make_artefact(f"gate-{number}", identity)
        shape = Shape(num_layers + 1, 8, 1)
        network = build("gate", shape, GateSettings(num_heads=8), seed=number)
        facts = plain.card.model_dump(
            include={"probe", "task", "labels", "layers", "template", "data", "seed", "training"}
        )
        made.append(Artefact.of(plain.name, network, **facts, model=identity, metrics={}))
    return made


def footprint(num_layers: int, kv_heads: int, head_dim: int) -> Footprint:
    probes = gates(num_layers)
    needs = MemoryNeeds.of(group(probes, torch.device("cpu"), torch.float32))
    assert needs.token_numbers == (num_layers + 1) * 192
    return Footprint(
        probes=tuple(a.name for a in probes),
        num_layers=num_layers + 1,
        side_bytes=4 * needs.page_numbers / BLOCK_TOKENS + SLOT_BYTES,
        kv_bytes=float(num_layers * 2 * kv_heads * head_dim * 2),
        buffer_bytes=0,
    )


@pytest.mark.parametrize(
    ("sizes", "kv_bytes", "mark"),
    [((30, 3, 64), 23_040, 0.15), ((28, 8, 128), 114_688, 0.05)],
    ids=["SmolLM2-135M", "Llama-3.2-3B"],
)
def test_eight_gates_take_a_small_share_of_the_kv_cache(
    sizes: tuple[int, int, int], kv_bytes: int, mark: float
) -> None:
    found = footprint(*sizes)
    assert found.kv_bytes == kv_bytes
    assert found.share < mark
    unfolded = 4 * 192 * found.num_layers / kv_bytes
    assert unfolded > 4 * found.share, "folding is what makes it small"


def test_the_sentence_names_the_bytes() -> None:
    found = Footprint(("safety", "intent"), 31, 248.0, 23_040.0, 12_300_000)
    assert str(found) == (
        "Probes safety, intent read 31 layers: the side cache takes 248 bytes a token, 1.1% of the "
        "KV cache's 23,040, and buffers of 12.3 MB."
    )
