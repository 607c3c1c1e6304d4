"""Attach a probe to a transformers model that is already in your hands.

Trains a sentiment probe on the bundled examples, then reads it while the model's own `generate`
runs: the code that generates stays as it is. Leaves no hook behind.

    python recipes/attach_to_your_model.py             a tiny random Llama: seconds, says nonsense
    python recipes/attach_to_your_model.py FOLDER      a causal LM of transformers, with tokenizer
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import pillion
from pillion.backends.transformers import TransformersBackend
from pillion.examples import load_example

PROMPT = "The staff were kind and the room was lovely."


def main(arguments: list[str]) -> dict[str, pillion.Verdict]:
    """Trains, attaches, generates; returns the verdicts of prompt and answer."""
    model, tokenizer = your_model(arguments[0]) if arguments else tiny_model()

    # Training needs texts in and states out: a backend around the very same model.
    language_model = pillion.LanguageModel(TransformersBackend(model, tokenizer))
    rows = load_example("sentiment", "train")
    probe = pillion.Probe(model=language_model, name="sentiment", template="raw")
    probe.fit(rows.texts, rows.labels)

    inputs = tokenizer(PROMPT, return_tensors="pt").to(model.device)
    with pillion.attach(model, probe, tokenizer) as reading:
        output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
        # One entry a row of the batch. The last token was sampled, but never read.
        found = {
            "prompt": reading.prompt_verdicts()[0]["sentiment"],
            "prompt and answer": reading.verdicts()[0]["sentiment"],
        }

    print(tokenizer.decode(output[0], skip_special_tokens=True))
    for what, verdict in found.items():
        probs = {label: round(prob, 3) for label, prob in verdict.probs.items()}
        print(f"{what}: {verdict.label} {probs}")
    return found


def your_model(path: str) -> tuple[Any, Any]:
    """A model and its tokenizer, as transformers loads them."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
    return model, AutoTokenizer.from_pretrained(path)


def tiny_model() -> tuple[Any, Any]:
    """A random Llama of three blocks, and a tokenizer that takes every byte for a token."""
    byte_names = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({name: i for i, name in enumerate(byte_names)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(byte_names),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only)
    return LlamaForCausalLM(config).eval(), tokenizer


if __name__ == "__main__":
    main(sys.argv[1:])
