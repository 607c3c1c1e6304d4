"""A model is its base weights and the adapters that are active: a probe belongs to both."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
    inject_adapter_in_model,
)
from peft.utils.hotswap import hotswap_adapter
from torch import nn

from pillion.backends.adapters import fingerprint
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError, MismatchError
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, attach
from tiny_models import make_artefact, random_ids, tiny_backend, tiny_model

IDS = torch.tensor([random_ids(9)])
TWO = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def lora(**others: Any) -> LoraConfig:
    return LoraConfig(**{**TWO, "init_lora_weights": False, **others})


@pytest.fixture
def model() -> Any:
    """A tiny model with two adapters, of which `one` is active."""
    torch.manual_seed(0)
    wrapped = get_peft_model(tiny_model(), lora(), adapter_name="one")
    wrapped.add_adapter("two", lora(modules_to_save=["lm_head"]))
    wrapped.eval()
    return wrapped


def probe_of(model: Any) -> Artefact:
    return make_artefact("p", TransformersBackend(model).identity)


def sha256(model: Any) -> str:
    return TransformersBackend(model).identity.weights_sha256


def verdicts(model: Any, probe: Artefact) -> list[Any]:
    with attach(model, probe) as reading:
        model(IDS)
        return reading.verdicts()


def test_a_probe_of_one_adapter_is_refused_by_a_model_that_runs_another(model: Any) -> None:
    """set_adapter("two") moved a verdict from 0.938 to 0.247, without a word."""
    probe = probe_of(model)
    wanted = verdicts(model, probe)

    model.set_adapter("two")
    with pytest.raises(MismatchError, match=r"adapters one, this model runs with .*adapters two"):
        verdicts(model, probe)
    model.set_adapter("one")
    assert verdicts(model, probe) == wanted


def test_adapters_that_change_between_passes_are_refused_when_the_pass_begins(model: Any) -> None:
    probe = probe_of(model)
    with attach(model, probe) as reading:
        model(IDS)
        wanted = reading.verdicts()
        model.set_adapter("two")
        with pytest.raises(MismatchError, match="runs with adapters two, and had adapters one"):
            model(IDS)
        with model.disable_adapter(), pytest.raises(MismatchError, match="runs with no adapter"):
            model(IDS)
        model.set_adapter("one")
        model.merge_adapter()
        with pytest.raises(MismatchError, match="one merged"):
            model(IDS)
        model.unmerge_adapter()
        model(IDS)
        assert reading.verdicts()[0].keys() == wanted[0].keys()


def test_another_scaling_or_an_adapter_that_comes_later_is_noticed(model: Any) -> None:
    probe = probe_of(model)
    with attach(model, probe):
        layer = model.get_base_model().model.layers[0].self_attn.q_proj
        layer.scale_layer(0.5)
        with pytest.raises(MismatchError, match="choose those adapters again"):
            model(IDS)
        layer.unscale_layer(0.5)
        model(IDS)

    plain = tiny_model()
    with attach(plain, probe_of(plain)):
        plain(IDS)
        inject_adapter_in_model(lora(), plain, adapter_name="late")
        with pytest.raises(MismatchError, match="runs with adapters late, and had no adapter"):
            plain(IDS)


def test_rows_with_adapters_of_their_own_are_refused(model: Any) -> None:
    model.set_adapter("one")
    with attach(model, probe_of(model)), pytest.raises(MismatchError, match="one adapter at a"):
        model(IDS.repeat(2, 1), adapter_names=["one", "two"])


def test_without_its_adapters_a_model_is_its_base_model(model: Any) -> None:
    base = sha256(tiny_model())

    assert sha256(model) != base
    with model.disable_adapter():
        assert sha256(model) == base
        probe = probe_of(tiny_model())
        assert verdicts(model, probe) == verdicts(tiny_model(), probe)


def test_a_merged_adapter_makes_the_model_that_the_merge_leaves_behind(model: Any) -> None:
    merged = copy.deepcopy(model).merge_and_unload()
    model.merge_adapter()

    assert sha256(model) == sha256(merged)
    assert sha256(model) not in {sha256(tiny_model())}
    assert verdicts(model, probe_of(merged)) == verdicts(merged, probe_of(merged))


def test_an_adapter_that_is_merged_and_disabled_is_refused(model: Any) -> None:
    model.merge_adapter()
    with model.disable_adapter(), pytest.raises(ConfigError, match="unmerge them first"):
        TransformersBackend(model)


def test_what_an_adapter_is_called_does_not_matter_and_what_it_holds_does(model: Any) -> None:
    torch.manual_seed(0)
    same = get_peft_model(tiny_model(), lora(), adapter_name="another_name")
    other = get_peft_model(tiny_model(), lora(), adapter_name="one")
    scaled = copy.deepcopy(same)
    scaled.get_base_model().model.layers[2].self_attn.q_proj.scale_layer(0.9)

    assert sha256(same) == sha256(model)
    assert len({sha256(one) for one in (same, other, scaled)}) == 3


def test_an_adapter_that_is_saved_and_loaded_again_is_the_same(model: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_model(), tmp_path / "one")

    assert sha256(again) == sha256(model)
    model.set_adapter("two")
    assert sha256(PeftModel.from_pretrained(tiny_model(), tmp_path / "two")) == sha256(model)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(**TWO, use_dora=True, init_lora_weights=False),
        IA3Config(
            target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            task_type="CAUSAL_LM",
            init_ia3_weights=False,
        ),
        LoHaConfig(**TWO, init_weights=False),
        VeraConfig(**TWO),
        TrainableTokensConfig(
            token_indices=[1, 2], target_modules=["embed_tokens"], init_weights=False
        ),
        LoraConfig(**TWO, trainable_token_indices={"embed_tokens": [1, 2]}),
    ],
    ids=lambda config: f"{config.peft_type.value}-{getattr(config, 'use_dora', '')}",
)
def test_adapters_of_other_kinds_are_told_apart_and_are_nothing_while_disabled(config: Any) -> None:
    wrapped = get_peft_model(tiny_model(), config).eval()
    before, base = sha256(wrapped), sha256(tiny_model())
    assert before != base
    with wrapped.disable_adapter():
        assert sha256(wrapped) == base
    for name, weight in wrapped.named_parameters():
        if "default" in name:
            weight.data += 0.25
    assert sha256(wrapped) not in {before, base}


def test_adapters_that_add_tokens_are_refused() -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(ConfigError, match="PROMPT_TUNING add tokens"):
        TransformersBackend(get_peft_model(tiny_model(), config))


@pytest.mark.parametrize("way", ["memory", "disk"])
def test_weights_that_are_set_aside_are_those_of_the_model(way: str, tmp_path: Path) -> None:
    plain = tiny_model()
    probe = probe_of(plain)
    moved = tiny_model()
    if way == "memory":
        cpu_offload(moved, execution_device=torch.device("cpu"))
    else:
        disk_offload(moved, str(tmp_path), execution_device=torch.device("cpu"))
    assert next(moved.parameters()).is_meta

    assert sha256(moved) == sha256(plain)
    assert verdicts(moved, probe) == verdicts(plain, probe)
    with pytest.raises(MismatchError, match="wants weights"):
        verdicts(cpu_offload(tiny_model(seed=1), execution_device=torch.device("cpu")), probe)


def test_a_model_without_numbers_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="no weights"):
        TransformersBackend(tiny_model().to("meta"))


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_weights_are_another_model_each() -> None:
    """Dynamically quantised layers keep their weights packed, and told nothing."""
    quantised = [
        torch.ao.quantization.quantize_dynamic(
            tiny_model(seed=seed), {nn.Linear}, dtype=torch.qint8
        )
        for seed in (0, 0, 1)
    ]
    one, same, other = map(sha256, quantised)

    assert one == same
    assert len({one, other, sha256(tiny_model())}) == 3
    with pytest.raises(MismatchError, match="wants weights"):
        verdicts(quantised[0], probe_of(tiny_model()))


class Packed(nn.Module):
    """A linear layer of 8-bit weights and scales, as buffers or as plain attributes."""

    def __init__(self, linear: nn.Linear, hidden: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        packed = (linear.weight.detach() / scale).round().to(torch.int8)
        if hidden:
            self.weights = (packed, scale)
        else:
            self.register_buffer("packed", packed)
            self.register_buffer("scale", scale)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        packed, scale = getattr(self, "weights", None) or (self.packed, self.scale)
        return states @ (packed * scale).T


def test_layers_of_another_class_are_told_by_what_they_keep() -> None:
    model = tiny_model()
    model.model.layers[1].mlp.up_proj = Packed(model.model.layers[1].mlp.up_proj)
    before = fingerprint(model)
    model.model.layers[1].mlp.up_proj.packed[0, 0] ^= 1

    assert fingerprint(model) != before != fingerprint(tiny_model())


def test_layers_whose_weights_cannot_be_read_are_refused() -> None:
    model = tiny_model()
    model.model.layers[1].mlp.up_proj = Packed(model.model.layers[1].mlp.up_proj, hidden=True)
    with pytest.raises(ConfigError, match=r"up_proj \(Packed\) keeps its weights where"):
        TransformersBackend(model)


def hot_swapped(model: Any, folder: Path) -> None:
    hotswap_adapter(model, str(folder), adapter_name="one")


def loaded_in_its_place(model: Any, folder: Path) -> None:
    model.load_adapter(str(folder), adapter_name="one")


@pytest.mark.parametrize("way", [hot_swapped, loaded_in_its_place])
def test_weights_that_take_the_place_of_an_adapters_are_another_model(
    model: Any, way: Any, tmp_path: Path
) -> None:
    """Name and settings stay: its verdicts went on as those of the adapter before."""
    other = get_peft_model(tiny_model(), lora(), adapter_name="one")
    model.save_pretrained(tmp_path / "own", selected_adapters=["one"])
    other.save_pretrained(tmp_path / "other")
    backend = TransformersBackend(model)
    probe, check, known = probe_of(model), backend.unchanged(), backend.identity
    with attach(model, probe) as reading:
        model(IDS)
        wanted = reading.verdicts()
        way(model, tmp_path / "other" / "one")
        for call in (lambda: model(IDS), check):
            with pytest.raises(MismatchError, match="runs with other weights of adapters one"):
                call()
        way(model, tmp_path / "own" / "one")
        model(IDS)
        check()
        assert reading.verdicts() == wanted
    way(model, tmp_path / "other" / "one")
    assert backend.identity.weights_sha256 == sha256(model) != known.weights_sha256


def test_base_weights_that_are_written_to_make_another_identity() -> None:
    """A model that was trained on went on as the one that its probes belong to."""
    backend = tiny_backend()
    probe, model = make_artefact("p", backend.identity), LanguageModel(backend)
    model.score_rows([random_ids(5)], [probe])
    known = backend.identity
    assert backend.identity is known
    backend.model.load_state_dict(tiny_model(seed=1).state_dict())
    with pytest.raises(MismatchError, match="wants weights"):
        model.score_rows([random_ids(5)], [probe])


def test_a_model_that_is_turned_to_another_dtype_while_it_is_read_is_refused() -> None:
    model = tiny_model()
    with attach(model, probe_of(model)):
        model.to(torch.bfloat16)
        with pytest.raises(MismatchError, match=r"turned to bfloat16.*in float32; attach"):
            model(IDS)
        model.to(torch.float32)
        model(IDS)
