"""What riding in vLLM costs: bytes and operations counted, and a sanity figure of a CPU.

    python -m benchmarks.vllm_ride [--rounds 4] [--count-only]

`counted` numbers are arithmetic from shapes: bytes and multiply-adds of the probes against the
model's own, and operations that the probes add to a step. No GPU was measured. `measured` ones are
tokens a second of the embedded model in vLLM on this CPU: bare, with one gate, with eight, in
turns. Attention there is the tests' plain one, so only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.result_file import write_result
from pillion.backends.checkpoint import read_checkpoint
from pillion.core import ModelIdentity, Scope, Tokens
from pillion.probe import Artefact
from pillion.probe.group import Group, group
from pillion.probe.untrained import untrained
from pillion.sidecache.decode_reader import DecodeReader
from pillion.vllm import options
from pillion.vllm.adapter import SLOT_BYTES, VllmStepReader
from pillion.vllm.footprint import Footprint
from pillion.vllm.step import DecodeRequests, Span, VllmStep
from pillion.vllm.taps import MemoryNeeds, VllmTaps

RIDERS = {"one-gate": 1, "eight-gates": 8}
APART: tuple[Scope, ...] = ("all", "assistant", "response")
"""Scopes of three gates that share no fold."""
BLOCK_TOKENS = 16
MODELS: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {"layers": 30, "dim": 576, "kv": 3 * 64, "parameters": 134_515_008},
    "Llama-3.2-3B": {"layers": 28, "dim": 3072, "kv": 8 * 128, "parameters": 3_212_749_824},
}
"""Shapes: blocks, width, width of keys (and of values), weights that a token goes through."""
CONTEXT_TOKENS = 1024
"""Of every request, for the KV cache that a decoding step reads."""
META = torch.device("meta")


def gates(
    identity: ModelIdentity, count: int, scopes: Sequence[Scope] = ("all",)
) -> list[Artefact]:
    """Binary gates of eight heads on every layer, untrained: cost does not depend on weights."""
    return [
        untrained(f"gate-{seed}", identity, scope=scopes[seed % len(scopes)], seed=seed)
        for seed in range(count)
    ]


class Operations(TorchDispatchMode):
    """Counts operations and copies to the device; views and memory that is asked for are none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = out[0] if isinstance(out, tuple | list) and out else out
        is_view = isinstance(made, torch.Tensor) and made._is_view()
        name = func.overloadpacket.__name__
        if name == "to":  # which may be a view, and is none from device to device
            self.count += made.device != args[0].device
        else:
            self.count += not (is_view or func.is_view or name.startswith("empty"))
        return out


class Launches:
    """In the place of the kernel: counts how often it would be launched."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid: Any) -> Any:
        def launch(*_: Any) -> None:
            self.count += 1

        return launch


def operations(
    groups: Sequence[Group], dim: int, batch: int, fuses: bool = False
) -> tuple[int, int]:
    """Operations of a decoding step of a batch: in the forward pass, and after it.

    Args:
        groups: of the probes.
        dim: width of states.
        batch: requests.
        fuses: whether gates go on in one kernel, as on CUDA; its launch is an operation.
    """
    taps = VllmTaps(groups, 1024, META)
    pages = torch.zeros(batch * 8, taps.needs.page_numbers, device=META)
    reader = VllmStepReader(taps, pages, BLOCK_TOKENS, batch)
    reader.side.decode_reader = DecodeReader(reader.side.groups, fuses)
    launches = Launches()
    prompt = Tokens([0] * 20)
    starts = [Span(str(i), 0, 20, (8 * i, 8 * i + 1), prompt) for i in range(batch)]
    reader.read(VllmStep(tuple(starts)))
    names = tuple(map(str, range(batch)))
    hidden = [torch.zeros(batch, dim, device=META) for _ in taps.needs.layers]
    with Operations() as inside, torch.inference_mode():
        taps.see(hidden, torch.zeros(batch, dtype=torch.long, device=META))
    with (
        patch("pillion.sidecache.fused.kernel", lambda: launches),
        torch.inference_mode(),
    ):
        # The first hands out a table.
        reader.read(VllmStep(decodes=DecodeRequests(names, np.full(batch, 20))))
        launches.count = 0
        with Operations() as after:
            reader.read(VllmStep(decodes=DecodeRequests(names, np.full(batch, 21))))
    return inside.count, after.count + launches.count


def counted() -> list[dict[str, Any]]:
    """Arithmetic for every model and rider."""
    rows: list[dict[str, Any]] = []
    for name, sizes in MODELS.items():
        identity = ModelIdentity(name, "", "", "", sizes["layers"], sizes["dim"], "bfloat16", 8192)
        for rider, count in RIDERS.items():
            artefacts = gates(identity, count)
            groups = group(artefacts, META, torch.float32)
            needs = MemoryNeeds.of(groups)
            columns = needs.token_numbers // len(needs.layers)
            kv = sizes["layers"] * 2 * sizes["kv"] * 2
            side = 4 * needs.page_numbers / BLOCK_TOKENS + SLOT_BYTES
            found = Footprint(tuple(a.name for a in artefacts), len(needs.layers), side, kv, 0)
            rows += [
                _row(name, rider, "side_cache_bytes_per_token", side, kv, found.share),
                _row(
                    name,
                    rider,
                    "multiply_adds_per_token",
                    len(needs.layers) * sizes["dim"] * columns,
                    sizes["parameters"],
                ),
                *(_step_bytes(name, rider, groups, batch, kv) for batch in (1, 32)),
                *_operations(name, rider, groups),
            ]
        apart = gates(identity, len(APART), APART)
        rows += _operations(name, "three-groups", group(apart, META, torch.float32))
    return rows


def _operations(model: str, rider: str, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """In the forward pass, and after it: with one kernel, and without it."""
    dim = MODELS[model]["dim"]
    inside, fused = operations(groups, dim, batch=32, fuses=True)
    _, plain = operations(groups, dim, batch=32)
    return [
        _row(model, rider, "operations_in_the_forward_pass", inside),
        _row(model, rider, "launches_after_the_forward_pass", fused),
        _row(model, rider, "operations_after_the_forward_pass", plain),
    ]


def _step_bytes(
    model: str, rider: str, groups: Sequence[Group], batch: int, kv_bytes: int
) -> dict[str, Any]:
    """Bytes that a decoding step moves where gates go on in one kernel."""
    sizes = MODELS[model]
    needs, weights = MemoryNeeds.of(groups), sum(one.weight_bytes for one in groups)
    # A state: summed for us 6, stacked 4, widened 6, read by two products and the norm 12.
    states = 28 * len(needs.layers) * sizes["dim"]
    # Values: made and put side by side 12, normalised 8, put in place 8, read by the kernel 4.
    rows = 4 * needs.token_numbers * 8
    # States of the answer and of the page, in one kernel: read, merged and put back.
    folds = 4 * needs.page_numbers * 4
    own = 2 * sizes["parameters"] + batch * CONTEXT_TOKENS * kv_bytes
    value = weights + batch * (states + rows + folds)
    return _row(model, rider, f"bytes_per_step_of_{batch}", value, own)


def _row(
    model: str,
    rider: str,
    metric: str,
    value: float,
    own: float | None = None,
    ratio: float | None = None,
) -> dict[str, Any]:
    kept: dict[str, Any] = {"kind": "counted", "model": model, "rider": rider, "metric": metric}
    kept["value"] = value
    if own is not None:
        kept |= {"model_own": own, "ratio": value / own if ratio is None else ratio}
    return kept


def measured(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Tokens a second of three engines in turns, each in a process of its own."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    from vllm import LLM, SamplingParams

    checkpoint = read_checkpoint("embedded", "float32")
    small: dict[str, Any] = {
        "model": str(checkpoint.folder),
        "dtype": "float32",
        "max_model_len": 1024,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 512,
        "kv_cache_memory_bytes": 2**29,
        "enable_prefix_caching": False,  # every round computes the same
    }
    engines: dict[str, Any] = {"bare": LLM(**small)}
    for rider, count in RIDERS.items():
        probes = {
            artefact.name: folder / rider / artefact.name
            for artefact in gates(checkpoint.identity, count)
        }
        for artefact in gates(checkpoint.identity, count):
            artefact.save(probes[artefact.name])
        engines[rider] = LLM(**small, **options(checkpoint.architectures, probes))
    noise = torch.Generator().manual_seed(0)
    prompts = [
        {"prompt_token_ids": torch.randint(5, 10_000, (128,), generator=noise).tolist()}
        for _ in range(16)
    ]
    times: dict[str, dict[str, list[float]]] = {}
    for metric, max_tokens in (("prompt", 1), ("both", 33)):
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        times[metric] = _in_turns(engines, prompts, params, rounds)
    for engine in engines.values():
        engine.llm_engine.engine_core.shutdown()
    return _figures(times, len(prompts))


def _in_turns(
    engines: dict[str, Any], prompts: Sequence[Any], params: Any, rounds: int
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        names = list(engines) if turn % 2 else list(reversed(engines))
        for name in names:
            begin = time.perf_counter()
            engines[name].generate(prompts, params, use_tqdm=False)
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - begin)
    return times


def _figures(times: dict[str, dict[str, list[float]]], batch: int) -> list[dict[str, Any]]:
    """Seconds of the prompts, and a decoding step, against the bare engine's in the same turn."""
    rows: list[dict[str, Any]] = []
    steps = {
        name: [(both - prompt) / 32 for both, prompt in zip(*pair, strict=True)]
        for name, pair in (
            (name, (times["both"][name], times["prompt"][name])) for name in times["both"]
        )
    }
    for metric, found in (("seconds_of_16_prompts", times["prompt"]), ("seconds_per_step", steps)):
        for rider in RIDERS:
            ratios = sorted(
                ridden / bare for ridden, bare in zip(found[rider], found["bare"], strict=True)
            )
            rows.append(
                {
                    "kind": "measured",
                    "model": "SmolLM2-135M",
                    "rider": rider,
                    "metric": metric,
                    "value": statistics.median(found[rider]),
                    "bare": statistics.median(found["bare"]),
                    "ratio": statistics.median(ratios),
                    "interval": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
                    "batch": batch,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--count-only", action="store_true", help="Write the counted file alone.")
    chosen = parser.parse_args()
    settings = {"block_tokens": BLOCK_TOKENS, "models": MODELS}
    write_result("vllm-counted", counted(), seed=0, settings=settings)
    if not chosen.count_only:
        from importlib.metadata import version

        with tempfile.TemporaryDirectory() as folder:
            rows = measured(chosen.rounds, Path(folder))
        write_result(
            "vllm-cpu", rows, seed=0, settings={"rounds": chosen.rounds, "vllm": version("vllm")}
        )


if __name__ == "__main__":
    main()
