"""Tiny random models on disk, with tokenizers, for engines that load models themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chat_templates import VOCAB as CHAT_VOCAB
from chat_templates import chat_tokenizer
from tiny_models import tiny_tokenizer

MARK = 1e-4
"""Worst relative error of a logit."""
FLOOR = 0.1
"""Logits smaller than this are compared with it: those of the probes here are about half of 1."""


def save_chat_model(folder: Path, template: str = "chatml") -> Path:
    """A random causal LM in fp32 with a chat template, and a tokenizer of one byte a token."""
    return save_tiny_model(folder, tokenizer=chat_tokenizer(template), vocab=CHAT_VOCAB)


def save_tiny_model(
    folder: Path,
    architecture: str = "llama",
    tokenizer: Any = None,
    vocab: int = 96,
    **others: Any,
) -> Path:
    """A random causal LM in fp32, with a tokenizer of one letter a token or another."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture,
        vocab_size=vocab,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        initializer_range=0.2,  # the default is so small that layers would hardly differ
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **others,
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.float().save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def relative_error(got: dict[str, list[float]], wanted: dict[str, Tensor]) -> float:
    """Worst of all logits."""
    assert set(got) == set(wanted)
    errors = [
        (torch.tensor(got[name]) - want).abs() / want.abs().clamp(min=FLOOR)
        for name, want in wanted.items()
    ]
    return max(float(error.max()) for error in errors)
