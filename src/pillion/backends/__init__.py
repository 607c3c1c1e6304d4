"""Text in, hidden states and tokens out: one engine a file, behind one contract.

Knows nothing of what probes do with the states. Heavy engines are imported when they are loaded.
"""

from __future__ import annotations

from typing import Any

import torch

from pillion.backends.base import Backend, Coder, EarlyExitWatcher, Step, Tool, Watcher
from pillion.core import defaults
from pillion.errors import ConfigError, unknown_name

DTYPES: dict[str, Any] = {
    "auto": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def load_backend(
    model: str = defaults.MODEL, dtype: str = defaults.DTYPE, device: str = defaults.DEVICE
) -> Backend:
    """A model by name, ready to run.

    Args:
        model: `embedded` (the default model), `fake`, a folder, a GGUF file, or a hub name.
        dtype: to compute in; `auto` is the one that the weights are stored in, or float32 on a
            processor without arithmetic in that one.
        device: `cpu`, `cuda`, ...; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: for an unknown dtype, a model that cannot be loaded or read, or an embedded
            model that is not installed.
    """
    if model == "fake":
        from pillion.backends.fake import FakeBackend

        return FakeBackend()
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    from pillion.backends.loading import load_transformers

    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return load_transformers(model, DTYPES[dtype], torch.device(where))
    except (RuntimeError, AssertionError) as error:  # torch asserts that CUDA was built in
        raise ConfigError(f"Device {where!r} cannot be used: {error}") from error


__all__ = ["Backend", "Coder", "EarlyExitWatcher", "Step", "Tool", "Watcher", "load_backend"]
