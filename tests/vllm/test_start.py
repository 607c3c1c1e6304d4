"""Bad input is refused in a sentence at start, before vLLM loads any weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from riding import ProbedModel, save_chat_model, save_tiny_model

from pillion.errors import ConfigError, MismatchError
from pillion.vllm import option_file, options, start
from pillion.vllm.settings import VllmProbeSettings
from tiny_models import make_artefact


def configure(model: ProbedModel, **others: Any) -> Any:
    """Everything that vLLM does before it starts a process or loads weights."""
    from vllm import EngineArgs

    arguments = model.options(**others)
    arguments.pop("disable_log_stats")
    return EngineArgs(**arguments).create_engine_config()


# -- what needs no vLLM


def test_options_without_a_probe_or_with_two_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="no probe"):
        options(["LlamaForCausalLM"], [])
    with pytest.raises(ConfigError, match="Two probes are called 'safety'"):
        options(["LlamaForCausalLM"], ["a/safety", "b/safety"])


def test_settings_are_strict() -> None:
    with pytest.raises(ConfigError, match=r"no 'pillion'.*pillion vllm"):
        VllmProbeSettings.of({})
    with pytest.raises(ConfigError, match="Did you mean 'allow_mismatch'"):
        VllmProbeSettings.of({"pillion": {"probes": {"a": "b"}, "allow_mismach": True}})
    with pytest.raises(ConfigError, match=r"pillion\.probes"):
        VllmProbeSettings.of({"pillion": {"probes": {}}})


def test_an_option_file_is_yaml_that_says_what_the_options_say() -> None:
    import yaml

    chosen = options(["LlamaForCausalLM"], {"safety": "probes/safety"}, http=True)
    read = yaml.safe_load(option_file(chosen))
    assert {name.replace("-", "_"): value for name, value in read.items()} == chosen
    assert read["hf-overrides"]["architectures"][0] == "PillionLlamaForCausalLM"
    assert Path(read["additional-config"]["pillion"]["probes"]["safety"]).is_absolute()


def test_verdicts_over_http_need_the_plugin_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    with pytest.raises(ConfigError, match="VLLM_PLUGINS=other,pillion"):
        start.check_http_plugin()
    monkeypatch.delenv("VLLM_PLUGINS")
    with pytest.raises(ConfigError, match="start it with VLLM_PLUGINS=pillion"):
        start.check_http_plugin()
    monkeypatch.setenv("VLLM_PLUGINS", "other,pillion")
    start.check_http_plugin()


def test_another_chat_template_than_the_probes_is_refused(tiny: ProbedModel) -> None:
    chat, raw = (
        make_artefact(template, tiny.backend.identity, template=template)
        for template in ("chat", "raw")
    )
    start.check_template([chat, raw], "{{ own }}", None)
    start.check_template([chat, raw], "{{ own }}", "{{ own }}")
    start.check_template([raw], "{{ own }}", "{{ other }}")
    with pytest.raises(ConfigError, match="'chat' was trained; start vLLM without"):
        start.check_template([raw, chat], "{{ own }}", "{{ other }}")


# -- the real vLLM, up to where it would load weights


@pytest.mark.vllm
def test_a_good_configuration_is_taken(tiny: ProbedModel) -> None:
    config = configure(tiny)
    assert config.model_config.architecture == "PillionLlamaForCausalLM"


@pytest.mark.vllm
def test_another_vllm_is_refused_at_start(
    tiny: ProbedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillion.vllm.hook.vllm_version", lambda: "0.31.0")
    with pytest.raises(ConfigError, match=r"vLLM 0\.31\.0"):
        configure(tiny)


@pytest.mark.vllm
def test_a_probe_of_another_model_is_refused(tiny: ProbedModel, tmp_path: Path) -> None:
    identity = tiny.backend.identity
    other = replace(identity, weights_sha256="0" * 64)
    make_artefact("stranger", other).save(tmp_path / "stranger")
    with pytest.raises(MismatchError, match=r"'stranger' belongs to another model.*weights"):
        configure(tiny, **options(["LlamaForCausalLM"], [tmp_path / "stranger"]))
    allowed = options(["LlamaForCausalLM"], [tmp_path / "stranger"], allow_mismatch=True)
    configure(tiny, **allowed)


@pytest.mark.vllm
def test_a_probe_of_a_model_of_other_layers_is_refused(tiny: ProbedModel, tmp_path: Path) -> None:
    deeper = replace(tiny.backend.identity, num_layers=9)
    make_artefact("deep", deeper).save(tmp_path / "deep")
    chosen = options(["LlamaForCausalLM"], [tmp_path / "deep"], allow_mismatch=True)
    with pytest.raises(MismatchError, match="9 layers, this one has 4"):
        configure(tiny, **chosen)


@pytest.mark.vllm
def test_a_probe_that_cannot_ride_is_refused(tiny: ProbedModel, tmp_path: Path) -> None:
    make_artefact("wide", tiny.backend.identity, "mha").save(tmp_path / "wide")
    with pytest.raises(ConfigError, match=r"'wide'.*every token.*pillion's own engine"):
        configure(tiny, **options(["LlamaForCausalLM"], [tmp_path / "wide"]))


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("others", "what"),
    [
        (
            {"pipeline_parallel_size": 2},
            "pipeline_parallel_size=2, where no process has all layers; start vLLM without it",
        ),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            "speculative decoding, whose rejected tokens.*; start vLLM without it",
        ),
        ({"runner": "pooling", "convert": "embed"}, "runner=pooling"),
        ({"kv_offloading_size": 1.0}, "kv_offloading_size"),
        ({"disable_hybrid_kv_cache_manager": False}, "several groups of KV caches"),
        ({"kv_sharing_fast_prefill": True}, "kv_sharing_fast_prefill"),
        ({"scheduler_cls": None}, "scheduler is None.*scheduler_cls=pillion"),
    ],
)
def test_what_probes_do_not_ride_with_is_refused(
    tiny: ProbedModel, others: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        configure(tiny, **others)


@pytest.mark.vllm
def test_riding_beside_other_connectors_is_refused(tiny: ProbedModel) -> None:
    """What they load has the pages' bytes at best, and not which words those stand for."""
    own = tiny.options()["kv_transfer_config"]
    other = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}
    both = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [own, other]},
    }
    with pytest.raises(ConfigError, match=r"'MultiConnector'.*; give PillionConnector alone"):
        configure(tiny, kv_transfer_config=both)


@pytest.mark.vllm
def test_half_of_an_engine_is_refused(tiny: ProbedModel) -> None:
    role = {**tiny.options()["kv_transfer_config"], "kv_role": "kv_producer"}
    with pytest.raises(ConfigError, match=r"role 'kv_producer'.*give it kv_both"):
        configure(tiny, kv_transfer_config=role)


@pytest.mark.vllm
def test_names_that_may_come_twice_are_refused(
    tiny: ProbedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", "1")
    with pytest.raises(ConfigError, match="each other's verdicts"):
        configure(tiny)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("others", "what"),
    [
        ({"load_format": "dummy"}, "load_format=dummy"),
        ({"quantization": "fp8"}, "quantization=fp8 of plain weights"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype=fp8"),
        ({"rms_norm_eps": 1e-3}, "hf_overrides of rms_norm_eps"),
        ({"num_hidden_layers": 3}, "hf_overrides of num_hidden_layers"),
    ],
)
def test_what_gives_other_hidden_states_is_refused(
    tiny: ProbedModel, others: dict[str, Any], what: str
) -> None:
    """The bug: verdicts of states that no probe has seen, without an error."""
    if "overrides" in what:
        others = {"hf_overrides": tiny.options()["hf_overrides"] | others}
    with pytest.raises(ConfigError, match=f"{what}.* other hidden states"):
        configure(tiny, **others)


@pytest.mark.vllm
def test_another_tokenizer_than_the_probes_is_refused(tiny: ProbedModel, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "other")
    with pytest.raises(MismatchError, match="tokenizer"):
        configure(tiny, tokenizer=str(tmp_path / "other"))


@pytest.mark.vllm
def test_a_probe_that_was_trained_again_has_other_compiled_graphs(
    tiny: ProbedModel, tmp_path: Path
) -> None:
    """The bug: the folder's name was all of the key, and a kept graph handed out other layers."""
    hashes = list[str]()
    for layers in ([1, 3], [1, 2], [1, 3]):
        folder = tmp_path / "probe"
        make_artefact("probe", tiny.backend.identity, layers=layers).save(folder)
        chosen = options(["LlamaForCausalLM"], [folder])
        hashes.append(configure(tiny, **chosen).compute_hash())
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.vllm
def test_a_model_without_auxiliary_hidden_states_is_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, OPTConfig

    sizes = {"hidden_size": 64, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 64}
    config = OPTConfig(vocab_size=96, num_hidden_layers=2, max_position_embeddings=768, **sizes)
    folder = save_tiny_model(tmp_path / "model")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model = ProbedModel(folder, tmp_path / "probes")
    with pytest.raises(ConfigError, match="OPTForCausalLM offers no auxiliary hidden states"):
        configure(model, kv_cache_memory_bytes=None)


@pytest.mark.vllm
def test_a_plugin_that_was_left_out_is_named(tiny: ProbedModel) -> None:
    arguments = {k: v for k, v in tiny.options().items() if k != "disable_log_stats"}
    program = (
        "import json, sys; from vllm import EngineArgs;"
        "EngineArgs(**json.loads(sys.argv[1])).create_engine_config()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)],
        env=os.environ | {"VLLM_PLUGINS": "pillion_cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "VLLM_PLUGINS is 'pillion_cpu'; add pillion to it" in last


@pytest.mark.vllm
def test_a_connector_of_somebody_else_is_refused(tiny: ProbedModel) -> None:
    other = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}
    with pytest.raises(ConfigError, match="'ExampleConnector', and probes need PillionConnector"):
        configure(tiny, kv_transfer_config=other)
