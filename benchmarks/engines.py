"""Models to measure on: the embedded one, or random weights in a larger model's shape."""

from __future__ import annotations

import argparse

import torch

from pillion.backends import Backend, load_backend
from pillion.backends.transformers import TransformersBackend

SHAPES = {
    "llama-3.2-3b": {
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    }
}


def model_parser(doc: str | None) -> argparse.ArgumentParser:
    """Reads the command line of a measurement: the model and the device that `engine` takes."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="auto")
    return parser


def engine(model: str, device: str) -> Backend:
    """The embedded model, any other by name, or random bf16 weights of a shape in `SHAPES`.

    Args:
        model: `embedded`, a folder, a hub name, or a key of `SHAPES`.
        device: `auto`, `cpu` or `cuda`.
    """
    if model not in SHAPES:
        return load_backend(model, device=device)
    from transformers import AutoModelForCausalLM, LlamaConfig

    where = "cuda" if device == "auto" and torch.cuda.is_available() else device
    with torch.device("cpu" if where == "auto" else where):
        network = AutoModelForCausalLM.from_config(
            LlamaConfig(**SHAPES[model]), dtype=torch.bfloat16
        )
    return TransformersBackend(network.eval(), name=model)
