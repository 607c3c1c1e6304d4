"""Numbers of the host on the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def upload(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """A tensor of (lists of) numbers; what follows on the device sees it, the host does not wait.

    Args:
        numbers: of one kind: whole ones, or truth values.
        device: where it is wanted.
    """
    # Only from pinned memory is a copy not waited for.
    pin = device.type not in {"cpu", "meta"}
    return torch.tensor(numbers, pin_memory=pin).to(device, non_blocking=True)
