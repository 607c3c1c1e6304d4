"""Brings a transformers model and its tokenizer from the embedded copy, a folder or a hub.

Knows where models come from, not what is read from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pillion.backends.embedded import local_folder
from pillion.backends.hub import may_have, why_not
from pillion.backends.transformers import TransformersBackend
from pillion.core.arithmetic import fast_dtype
from pillion.core.memory import keep_freed_memory
from pillion.errors import ConfigError


def load_transformers(
    model: str, dtype: torch.dtype | None, device: torch.device
) -> TransformersBackend:
    """The model and tokenizer of that name, as a backend.

    Args:
        model: `embedded`, a folder, a GGUF file or a folder with one, or a hub name.
        dtype: to compute in; None: as the weights are stored, or wider where that is faster.
        device: to run on.

    Raises:
        ConfigError: saying that it was not found or is not a causal LM, and what to do.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        path = str(local_folder(model) or model)
        with quiet():
            local = Path(path).is_dir() or not may_have(path)
            config = AutoConfig.from_pretrained(path, local_files_only=local)
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=local)
            stored = getattr(config.get_text_config(), "dtype", None) or torch.float32
            computed = dtype or fast_dtype(stored, device)
            network: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=computed, local_files_only=local
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        why = why_not(model, error)
        raise ConfigError(
            f"Model {model!r} could not be loaded ({why}); give the folder of a causal LM "
            "of transformers, a GGUF file, a hub name that can be reached, or no name, which is "
            "the embedded model."
        ) from error
    if device.type == "cpu":
        keep_freed_memory()
    known = stored if computed.itemsize > stored.itemsize else computed
    return TransformersBackend(network.to(device).eval(), tokenizer, model, known)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """No progress bars of the library while a model loads; as it was, afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
