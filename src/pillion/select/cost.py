"""What reading some layers costs: time, memory, disk, and how much of the model has to run.

Promises times of the reading itself, driven as an engine drives it. Knows no texts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pillion.backends import Backend, Step
from pillion.probe.untrained import untrained
from pillion.runtime import Reading

TOKENS, TURNS = 512, 9
"""Tokens of one measurement, and how often it is taken: medians are kept."""


@dataclass(frozen=True)
class ReadCost:
    """What a gate on some layers costs.

    Attributes:
        milliseconds: to tap and fold 1,000 tokens of one text, and to read out once.
        probe_bytes: weights of the gate, in fp32.
        state_bytes_a_token: of these layers' states, where they are kept on disk for training.
        blocks_share: share of the model's blocks that must run if nothing is generated.
    """

    milliseconds: float
    probe_bytes: int
    state_bytes_a_token: int
    blocks_share: float


def read_costs(
    backend: Backend, layer_sets: Sequence[Sequence[int]], num_outputs: int
) -> list[ReadCost]:
    """The cost of a default gate on each set of layers, measured in turns.

    Args:
        backend: the model; it is not run.
        layer_sets: each ascending.
        num_outputs: logits of the gate.
    """
    readings = [_reading(backend, layers, num_outputs) for layers in layer_sets]
    states = torch.randn(1, TOKENS, backend.identity.dim).to(backend.device, backend.dtype)
    taken: list[list[float]] = [[] for _ in readings]
    for turn in range(TURNS + 1):
        for reading, seconds in zip(readings, taken, strict=True):
            begin = time.perf_counter()
            _drive(reading, states)
            if turn:  # the first one warms up
                seconds.append(time.perf_counter() - begin)
    return [
        ReadCost(
            milliseconds=statistics.median(seconds) * 1e6 / TOKENS,
            probe_bytes=sum(a.network.num_parameters * 4 for a in reading.artefacts.values()),
            state_bytes_a_token=len(layers) * backend.identity.dim * _bytes(backend),
            blocks_share=max(layers) / backend.identity.num_layers,
        )
        for reading, layers, seconds in zip(readings, layer_sets, taken, strict=True)
    ]


def _drive(reading: Reading, states: torch.Tensor) -> None:
    """One pass as the engine shows it, and its read-out (which waits for an accelerator)."""
    with torch.inference_mode():
        reading.start(Step(torch.ones(states.shape[:2], dtype=torch.bool), None, 0))
        for layer in reading.layers:
            reading.see(layer, states)
        reading.end(None)
        reading.verdicts()


def _bytes(backend: Backend) -> int:
    return torch.finfo(getattr(torch, backend.identity.dtype)).bits // 8


def _reading(backend: Backend, layers: Sequence[int], num_outputs: int) -> Reading:
    """Of an untrained gate: time and memory do not depend on the weights."""
    labels = tuple(map(str, range(max(num_outputs, 2))))
    artefact = untrained(
        "gate",
        backend.identity,
        layers=layers,
        labels=labels,
        task="multiclass" if num_outputs > 1 else "binary",
    )
    return Reading([artefact], backend.device, backend.dtype)
