"""What makes two models two: every part of a large weight, shapes, a tokenizer's rules, and how the
configuration has weights used."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pillion import attach
from pillion.backends.fingerprint import SAMPLES, fingerprint_of
from pillion.backends.identity import tokenizer_sha256
from pillion.backends.transformers import TransformersBackend
from pillion.errors import MismatchError
from pillion.extract import cache_key
from tiny_models import DEVICE, make_artefact, tiny_model, tiny_tokenizer


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


def test_how_a_tokenizer_was_called_last_is_no_part_of_it() -> None:
    """A batch that was padded made it another tokenizer, whose probes were refused."""
    known, used = tiny_tokenizer(), tiny_tokenizer()
    used.pad_token = used.convert_ids_to_tokens(0)
    used(["ab", "a"], padding=True, truncation=True, max_length=4)
    assert used.backend_tokenizer.padding and used.backend_tokenizer.truncation
    assert tokenizer_sha256(used) == tokenizer_sha256(known)


CHANGED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    ("llama", {"rms_norm_eps": 0.1}),
    ("gpt2", {"activation_function": "relu"}),
    ("mixtral", {"num_experts_per_tok": 1}),
    ("mixtral", {"sliding_window": 4}),
]


@pytest.mark.parametrize(("kind", "changed"), CHANGED, ids=lambda one: str(one))
def test_a_probe_is_refused_where_the_configuration_makes_other_states(
    kind: str, changed: dict[str, Any]
) -> None:
    """Of the weights alone both were one model, whose verdicts were those of another."""
    model = tiny_model(kind)
    probe = make_artefact("p", TransformersBackend(model).identity)
    config = copy.deepcopy(model.config)
    for name, value in changed.items():
        setattr(config, name, value)
    other: Any = AutoModelForCausalLM.from_config(config)
    other.load_state_dict(model.state_dict())
    wanted = f"configuration says {next(iter(changed))}"
    with pytest.raises(MismatchError, match=wanted), attach(other.to(DEVICE).eval(), probe):
        pass
    one, two = (TransformersBackend(each).identity for each in (model, other))
    assert cache_key(one, "raw", "error", [[1]]) != cache_key(two, "raw", "error", [[1]])


def test_what_states_do_not_depend_on_is_no_other_model() -> None:
    model = tiny_model()
    probe = make_artefact("p", TransformersBackend(model).identity)
    model.set_attn_implementation("eager")
    model.config.update({"pad_token_id": 0, "use_cache": False, "attention_dropout": 0.1})
    model.config.update({"max_position_embeddings": 32, "something_new": 1})
    with attach(model, probe):
        pass


def test_a_card_that_says_nothing_of_the_configuration_is_taken() -> None:
    model = tiny_model()
    known = TransformersBackend(model).identity
    with attach(model, make_artefact("p", replace(known, settings={}))):
        pass
