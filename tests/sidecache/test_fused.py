"""Gates in one kernel: it says what their folds say, and takes the place of all their launches."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pillion.backends.fake import FakeBackend
from pillion.core import Segment, Tokens
from pillion.probe.group import group
from pillion.sidecache.decode_reader import DecodeReader
from pillion.sidecache.fused import SWITCH, can_fuse
from pillion.vllm.adapter import VllmStepReader
from pillion.vllm.step import DecodeRequests, Span, VllmStep
from pillion.vllm.taps import VllmTaps
from tiny_models import make_artefact

FOLDER = Path(__file__).parent
META = torch.device("meta")
MOST = 8
"""Launches after a forward pass, whatever rides."""


class Launches(TorchDispatchMode):
    """Counts what runs on a device: everything but views and memory that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = out[0] if isinstance(out, tuple | list) and out else out
        is_view = isinstance(made, Tensor) and made._is_view()
        name = func.overloadpacket.__name__
        is_upload = name == "to" and out.device != args[0].device
        if is_upload or not (is_view or func.is_view or name.startswith("empty")):
            self.names.append(name)
        return out


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("script", "interprets", "says"),
    [("run_fused.py", "1", "steps agree"), ("compile_kernel.py", "0", "compiled for 3 sizes")],
)
def test_the_kernel_of_gates_says_what_their_folds_say_and_compiles(
    script: str, interprets: str, says: str
) -> None:
    """In processes of their own: Triton reads the sources of functions that nothing has wrapped,
    and whether it interprets them is chosen before it is imported."""
    paths = os.pathsep.join([str(FOLDER), str(FOLDER.parent), *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": interprets, "PYTHONPATH": paths}
    command = [sys.executable, str(FOLDER / script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


@pytest.mark.parametrize("num_probes", [1, 3, 12])
def test_any_number_of_gates_takes_a_handful_of_launches(
    num_probes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[Any] = []

    class Kernel:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *_: grids.append(grid)

    monkeypatch.setattr("pillion.sidecache.fused.kernel", Kernel)
    scopes: Any = ["all", "response", "assistant", "user"]
    identity = FakeBackend().identity
    probes = [
        make_artefact(
            f"p{i}",
            identity,
            "gate-paper" if i % 3 == 2 else "gate",
            template="chat",
            scope=scopes[i % 4],
            layers=[0, 1 + i % 2],
            seed=i,
        )
        for i in range(num_probes)
    ]
    taps = VllmTaps(group(probes, META, torch.float32), 64, META)
    reader = VllmStepReader(
        taps, torch.zeros(64, taps.needs.page_numbers, device=META), 4, max_requests=3
    )
    reader.side.decode_reader = DecodeReader(reader.side.groups, fuses=True)
    prompt = Tokens([1] * 9, [Segment(1, 8, "user", 0)])
    spans = [Span(str(i), 0, 9, tuple(range(4 * i, 4 * i + 4)), prompt) for i in range(3)]
    reader.read(VllmStep(tuple(spans)))
    for place in range(9, 15):
        decodes = DecodeRequests(("0", "1", "2"), np.full(3, place))
        with Launches() as mode, torch.inference_mode():
            reader.read(VllmStep(decodes=decodes))
        # Where the tokens lie, the plan's copy to the device, all logits together; and the kernel.
        assert len(mode.names) + 1 <= MOST, mode.names
    assert grids == [(3, num_probes)] * 6


def test_the_kernel_is_for_cuda_alone_and_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    assert not can_fuse(torch.device("cpu")) and not can_fuse(META)
    assert can_fuse(torch.device("cuda")) is (find_spec("triton") is not None)
    monkeypatch.delenv(SWITCH)
    assert not can_fuse(torch.device("cuda"))
