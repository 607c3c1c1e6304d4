"""Bidirectional encoders of transformers: no engine of pillion's, but what it is compared with.

Knows where models come from, not what they are used for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pillion.backends.hub import may_have, why_not
from pillion.backends.loading import quiet
from pillion.errors import ConfigError


def load_encoder(name: str) -> tuple[Any, Any]:
    """An encoder and its tokenizer, in fp32, ready to evaluate.

    Args:
        name: a folder or a hub name.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import AutoModel

    return _load(AutoModel, name)


def load_classifier(name: str, num_outputs: int | None = None) -> tuple[Any, Any]:
    """A sequence classifier and its tokenizer, in fp32, ready to evaluate.

    Args:
        name: a folder or a hub name.
        num_outputs: of a fresh head, to be trained; None for the head that the model has.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import AutoModelForSequenceClassification

    if num_outputs is None:
        return _load(AutoModelForSequenceClassification, name)
    fresh: dict[str, Any] = {"num_labels": num_outputs, "ignore_mismatched_sizes": True}
    return _load(AutoModelForSequenceClassification, name, **fresh)


@contextlib.contextmanager
def _no_report() -> Generator[None]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _load(kind: Any, name: str, **options: Any) -> tuple[Any, Any]:
    import torch
    from transformers import AutoTokenizer

    local = Path(name).is_dir() or not may_have(name)
    try:
        # Silent of a head that is new, or left out: that is what was asked for.
        with quiet(), _no_report():
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
            model = kind.from_pretrained(
                name, local_files_only=local, dtype=torch.float32, **options
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        why = why_not(name, error)
        raise ConfigError(
            f"Encoder {name!r} could not be loaded ({why}); give the folder of an encoder "
            "of transformers, or a hub name that can be reached."
        ) from error
    return model.eval(), tokenizer
