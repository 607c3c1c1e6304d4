"""A side cache that grows by the kernel beside one that grows by its folds, on the same steps."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from pillion.backends.fake import FakeBackend
from pillion.core import Segment, Tokens
from pillion.probe.group import Group, group
from pillion.sidecache.decode_reader import DecodeReader
from pillion.vllm.adapter import VllmStepReader
from pillion.vllm.step import DecodeRequests, Span, VllmStep
from pillion.vllm.taps import VllmTaps
from tiny_models import make_artefact

CPU, SIZE = torch.device("cpu"), 4
IDENTITY = FakeBackend().identity


def groups() -> list[Group]:
    every: Any = [
        make_artefact("all", IDENTITY, "gate"),
        make_artefact("labels", IDENTITY, "gate", "multiclass", seed=1),
        make_artefact("paper", IDENTITY, "gate-paper", "multiclass", layers=[0, 2], seed=2),
        make_artefact("mean", IDENTITY, "pooling", "multiclass", seed=3),
        make_artefact("answer", IDENTITY, "gate", template="chat", scope="response", seed=4),
        make_artefact("turns", IDENTITY, "gate", template="chat", scope="assistant", seed=5),
        make_artefact("user", IDENTITY, "gate", template="chat", scope="user", seed=6),
    ]
    return group(every, CPU, torch.float32)


def reader() -> VllmStepReader:
    taps = VllmTaps(groups(), 128, CPU)
    pages = torch.full((64, taps.needs.page_numbers), torch.nan)
    return VllmStepReader(taps, pages, SIZE, max_requests=2)


def see(one: VllmStepReader, slots: list[int], seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    dim = IDENTITY.dim
    hidden = [torch.randn(len(slots), dim, generator=noise) for _ in one.taps.needs.layers]
    one.taps.see(hidden, torch.tensor(slots))


def main() -> None:
    fused, plain = reader(), reader()
    fused.side.decode_reader = DecodeReader(fused.side.groups, fuses=True)
    noise, lengths = random.Random(0), [5, 8, 11]
    blocks = [list(range(16 * i, 16 * (i + 1))) for i in range(3)]
    prompts = [
        Tokens([1] * n, [Segment(1, 3, "user", 0), Segment(3, n - 1, "assistant", 1)])
        for n in lengths
    ]
    spans = [Span(str(i), 0, n, tuple(blocks[i]), prompts[i]) for i, n in enumerate(lengths)]
    slots = [
        blocks[i][p // SIZE] * SIZE + p % SIZE for i, n in enumerate(lengths) for p in range(n)
    ]
    for one in (fused, plain):
        see(one, slots, seed=0)
        one.read(VllmStep(tuple(spans)))
    done, compared = list(lengths), 0
    for step in range(1, 20):
        some = noise.sample(range(3), noise.randint(1, 3))
        decodes = DecodeRequests(tuple(map(str, some)), np.array([done[i] for i in some]))
        slots = [blocks[i][done[i] // SIZE] * SIZE + done[i] % SIZE for i in some]
        reports: list[Any] = []
        for one in (fused, plain):
            see(one, slots, seed=step)
            reports.append(one.read(VllmStep(decodes=decodes)).rows())
        for (read, got), (other, wanted) in zip(*reports, strict=True):
            assert read == other and got.keys() == wanted.keys() and "all" in got
            for name, logits in wanted.items():
                torch.testing.assert_close(
                    torch.tensor(got[name]), torch.tensor(logits), rtol=1e-5, atol=1e-5
                )
                compared += 1
        for i in some:
            done[i] += 1
    for own, other in zip(fused.side.groups, plain.side.groups, strict=True):
        for got, wanted in zip(own.memory(), other.memory(), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
    print(f"{compared} verdicts of 19 steps agree")


if __name__ == "__main__":
    main()
