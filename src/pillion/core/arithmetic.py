"""In which dtype a device multiplies fast, and that it multiplies in that of what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def fast_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in: as stored, or float32 on a processor that has no other arithmetic.

    Without bf16 instructions products in bf16 are several times slower than in fp32, whose
    results are those of the same weights, less rounded.
    """
    if device.type != "cpu" or stored.itemsize >= 4:
        return stored
    native = _native_dtypes(torch.cpu.get_capabilities())
    return stored if stored in native else torch.float32


def _native_dtypes(capabilities: Mapping[str, Any]) -> set[torch.dtype]:
    names = {
        torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16"),
        torch.float16: ("amx_fp16", "avx512_fp16", "fp16_arith"),
    }
    return {dtype for dtype, any_of in names.items() if any(map(capabilities.get, any_of))}


def as_given(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, products are of the dtype of their factors, whatever autocast a caller is in."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
