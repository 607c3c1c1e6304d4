"""What makes two models two: every part of a large weight, shapes, a tokenizer's rules."""

from __future__ import annotations

import torch

from pillion.backends.fingerprint import SAMPLES, fingerprint_of
from pillion.backends.transformers import TransformersBackend
from tiny_models import tiny_model, tiny_tokenizer


def sha256(**weights: torch.Tensor) -> str:
    return fingerprint_of(weights.items()).sha256


def test_the_end_of_a_large_weight_counts() -> None:
    """Of the first 4,096 numbers alone, models that were tuned further up would be one."""
    weight = torch.randn(10 * SAMPLES)
    for begin in (SAMPLES, 5 * SAMPLES, 9 * SAMPLES):
        other = weight.clone()
        other[begin : begin + SAMPLES] += 1
        assert sha256(w=other) != sha256(w=weight)


def test_shapes_and_names_count() -> None:
    numbers = torch.arange(24.0)
    prints = {
        sha256(w=numbers.reshape(4, 6)),
        sha256(w=numbers.reshape(6, 4)),
        sha256(w=numbers),
        sha256(v=numbers),
        sha256(v=numbers[:12], w=numbers[12:]),
    }
    assert len(prints) == 5


def test_a_tokenizer_is_more_than_its_vocabulary() -> None:
    from tokenizers.normalizers import Lowercase

    model, same, other = tiny_model(), tiny_tokenizer(), tiny_tokenizer()
    other.backend_tokenizer.normalizer = Lowercase()
    assert other.get_vocab() == same.get_vocab()
    prints = [
        TransformersBackend(model, one, "tiny").identity.tokenizer_sha256
        for one in (tiny_tokenizer(), same, other)
    ]
    assert prints[0] == prints[1] != prints[2]
