"""A model that draws by chance has no single state a token: its passes are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pillion import attach
from pillion.backends.transformers import TransformersBackend
from pillion.errors import StateError
from pillion.runtime import LanguageModel
from tiny_models import DEVICE, make_artefact, random_ids, tiny_backend, tiny_model

IDS = torch.tensor([random_ids(20)], device=DEVICE)


def with_new_adapter(model: Any, dropout: float = 0.3) -> Any:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(
        r=4, target_modules=["q_proj"], lora_dropout=dropout, init_lora_weights=False
    )
    return peft.get_peft_model(model, settings)


def test_dropout_in_training_mode_is_refused() -> None:
    """Two passes over one text gave two verdicts, without a word."""
    model = tiny_model("gpt2")
    probe = make_artefact("p", TransformersBackend(model).identity)
    with attach(model, probe) as reading:
        model(IDS)
        told = reading.verdicts()
        model.train()
        with pytest.raises(StateError, match=r"training mode.*eval\(\)"):
            model(IDS)
        model.eval()
        model(IDS)
        assert reading.verdicts() == told


def test_the_dropout_of_an_adapter_that_is_new_in_a_model_in_eval_is_refused() -> None:
    """peft makes its modules in training mode, whatever mode the model is in."""
    model = with_new_adapter(tiny_model())
    assert not model.base_model.model.training
    probe = make_artefact("p", TransformersBackend(model).identity)
    with attach(model, probe), pytest.raises(StateError, match="lora_dropout"):
        model(IDS)
    model.eval()
    with attach(model, probe) as reading:
        model(IDS)
        assert reading.verdicts()


@pytest.mark.parametrize("name", ["attention_dropout", "router_jitter_noise"])
def test_what_is_drawn_without_a_module_of_its_own_is_refused(name: str) -> None:
    model: Any = tiny_model("mixtral")
    part = model.model.layers[0].self_attn if "attention" in name else model.model.layers[0].mlp
    setattr(part, "jitter_noise" if "jitter" in name else name, 0.1)
    probe = make_artefact("p", TransformersBackend(model).identity)
    with attach(model.train(), probe), pytest.raises(StateError, match="training mode"):
        model(IDS)


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_training_mode_without_dropout_is_read(kind: str) -> None:
    model = tiny_model(kind)
    probe = make_artefact("p", TransformersBackend(model).identity)
    told: list[Any] = []
    for mode in (False, True):
        with attach(model.train(mode), probe) as reading:
            model(IDS)
            told.append(reading.verdicts())
    assert told[0] == told[1]


def test_scoring_and_an_engines_check_refuse_it_too() -> None:
    backend = tiny_backend("gpt2")
    check = backend.unchanged()
    check()
    backend.model.train()
    with pytest.raises(StateError, match="training mode"):
        check()
    probe = make_artefact("p", backend.identity)
    with pytest.raises(StateError, match="training mode"):
        LanguageModel(backend).score_rows([random_ids(5)], [probe])
