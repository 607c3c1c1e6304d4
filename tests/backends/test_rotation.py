"""Models that turn positions by the length of the longest text: what would be another number."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pillion.backends.rotation import Rotation, check_engine_rotation, rotation_of
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError, DataError, StateError
from pillion.runtime import LanguageModel, attach
from tiny_models import make_artefact, random_ids, sizes, tiny_tokenizer

LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 32,
    "factor": 20.0,
}
DYNAMIC: dict[str, Any] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def backend_of(rope: dict[str, Any], longest: int = 640) -> TransformersBackend:
    from transformers import AutoModelForCausalLM, LlamaConfig

    own = sizes(2) | {"num_key_value_heads": 2, "max_position_embeddings": longest}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**own, rope_parameters=rope))
    return TransformersBackend(model.eval(), tiny_tokenizer(), "tiny")


@pytest.mark.parametrize(("rope", "longest"), [(LONGROPE, 640), (DYNAMIC, 32)])
def test_texts_beyond_the_first_length_are_refused(rope: dict[str, Any], longest: int) -> None:
    """The bug: a short text beside a long one had other states than alone, without an error."""
    backend = backend_of(rope, longest)
    probe, model = make_artefact("p", backend.identity), LanguageModel(backend)
    assert backend.identity.context_tokens == 32
    short, long = random_ids(20, 1), random_ids(60, 2)
    (alone,) = model.score_rows([short], [probe])
    (_, beside) = model.score_rows([random_ids(32, 3), short], [probe])
    assert beside["p"].probs["yes"] == pytest.approx(alone["p"].probs["yes"], abs=1e-5)
    with pytest.raises(StateError, match="a text of more than 32 tokens"):
        model.score_rows([short, long], [probe])
    with pytest.raises(DataError, match="32"):
        model.score(["a " * 60], [probe], template="raw")


def test_what_runs_beyond_it_as_the_text_alone_does_is_read() -> None:
    """Rows that are all long; of one that grows so, what is cached is of another kind."""
    backend = backend_of(LONGROPE)
    probe = make_artefact("p", backend.identity)
    long, longer = random_ids(40, 2), random_ids(60, 3)
    with attach(backend.model, probe) as reading:
        backend.model(torch.tensor([long]), use_cache=False)
        (alone,) = reading.verdicts()
        ids, mask = torch.zeros(2, 60, dtype=torch.long), torch.ones(2, 60, dtype=torch.long)
        ids[0, :40], ids[1], mask[0, 40:] = torch.tensor(long), torch.tensor(longer), 0
        backend.model(ids, attention_mask=mask, use_cache=False)
        assert reading.verdicts()[0]["p"].probs["yes"] == pytest.approx(
            alone["p"].probs["yes"], abs=1e-5
        )
        cache = backend.new_cache()
        backend.forward(torch.tensor([random_ids(32, 4)]), torch.ones(1, 32).bool(), cache)
        with pytest.raises(StateError, match="here 33"):
            backend.forward(torch.tensor([[1]]), torch.ones(1, 33).bool(), cache)


def test_models_of_other_kinds_are_as_long_as_they_say() -> None:
    plain = backend_of({"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})
    assert plain.identity.context_tokens == 640 and rotation_of(plain.model.config) is None


def test_engines_that_turn_positions_in_another_way_are_refused() -> None:
    check_engine_rotation(None, "vLLM", 10**6)
    check_engine_rotation(Rotation(32, follows=False), "vLLM", 32)
    with pytest.raises(ConfigError, match="take 33, so that probes would read other"):
        check_engine_rotation(Rotation(32, follows=False), "vLLM", 33)
    with pytest.raises(ConfigError, match="rope_type dynamic"):
        check_engine_rotation(Rotation(32, follows=True), "SGLang", 8)


@pytest.mark.parametrize("kind", [{"rope_type": "longrope"}, {"type": "su"}])
def test_older_configurations_are_understood(kind: dict[str, str]) -> None:
    config = SimpleNamespace(
        max_position_embeddings=640, original_max_position_embeddings=32, rope_scaling=kind
    )
    config.get_text_config = lambda: config
    assert rotation_of(config) == Rotation(32, follows=False)
    config.rope_scaling = None
    assert rotation_of(config) is None
