"""Numbers of the host on the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(numbers: Sequence[Any] | NDArray[np.int64], device: torch.device) -> Tensor:
    """A tensor of (lists of) numbers; what follows on the device sees it, the host does not wait.

    Args:
        numbers: of one kind: whole ones, or truth values. An array is not to be changed later.
        device: where it is wanted.
    """
    # Only from pinned memory is a copy not waited for.
    pin = device.type not in {"cpu", "meta"}
    if isinstance(numbers, np.ndarray):
        made = torch.from_numpy(numbers)
        made = made.pin_memory() if pin else made
    else:
        made = torch.tensor(numbers, pin_memory=pin)
    return made.to(device, non_blocking=True)
