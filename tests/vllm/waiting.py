"""A mode that refuses what makes a host wait for its device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense",  # item, bool, int of a tensor; and tolist, but not on a CPU
    "is_nonzero",
    "nonzero",
    "masked_select",
    "unique_dim",
    "unique_consecutive",
    "_unique2",
    "equal",
    "repeat_interleave",  # of a tensor: the host must know the sum
    "bincount",
}


class Waited(Exception):
    """The host would have waited."""


class NeverWait(TorchDispatchMode):
    """Raises `Waited` at an operation whose result or shape the host must know.

    Attributes:
        num_operations: how many were seen.
        num_uploads: copies from the host to the device, which are not waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = self.num_uploads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING:
            raise Waited(name)
        if name in {"index", "index_put", "index_put_"} and _has_mask(args[1]):
            raise Waited(f"{name} with a mask")
        out = func(*args, **(kwargs or {}))
        self._count(name, args, out)
        return out

    def _count(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        self.num_operations += 1
        if name not in {"_to_copy", "copy_", "to"}:
            return
        source = args[1] if name == "copy_" else args[0]
        target = args[0] if name == "copy_" else out
        if source.device.type != target.device.type:
            if source.device.type != "cpu":
                raise Waited(f"{name} from {source.device} to {target.device}")
            self.num_uploads += 1


def _has_mask(indices: Any) -> bool:
    return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)
