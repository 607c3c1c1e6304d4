"""Bad input is refused in a sentence at start, before vLLM loads any weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from riding import Ridden, save_tiny_model

from pillion.errors import ConfigError, MismatchError
from pillion.vllm import option_file, options, start
from pillion.vllm.settings import ProbeSettings
from tiny_models import make_artefact


def configure(model: Ridden, **others: Any) -> Any:
    """Everything that vLLM does before it starts a process or loads weights."""
    from vllm import EngineArgs

    arguments = model.options(**others)
    arguments.pop("disable_log_stats")
    return EngineArgs(**arguments).create_engine_config()


# -- what needs no vLLM


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.0"])
def test_another_vllm_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=rf"vLLM {version} is installed.*0\.32\.\* only"):
        start.check_version(version)


def test_no_vllm_is_told_how_to_install() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'pillion\[vllm\]'"):
        start.check_version("")


def test_options_without_a_probe_or_with_two_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="no probe"):
        options(["LlamaForCausalLM"], [])
    with pytest.raises(ConfigError, match="Two probes are called 'safety'"):
        options(["LlamaForCausalLM"], ["a/safety", "b/safety"])


def test_settings_are_strict() -> None:
    with pytest.raises(ConfigError, match=r"no 'pillion'.*pillion vllm"):
        ProbeSettings.of({})
    with pytest.raises(ConfigError, match="Did you mean 'allow_mismatch'"):
        ProbeSettings.of({"pillion": {"probes": {"a": "b"}, "allow_mismach": True}})
    with pytest.raises(ConfigError, match=r"pillion\.probes"):
        ProbeSettings.of({"pillion": {"probes": {}}})


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


# -- the real vLLM, up to where it would load weights


@pytest.mark.vllm
def test_a_good_configuration_is_taken(tiny: Ridden) -> None:
    config = configure(tiny)
    assert config.model_config.architecture == "PillionLlamaForCausalLM"


@pytest.mark.vllm
def test_another_vllm_is_refused_at_start(tiny: Ridden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillion.vllm.hook.vllm_version", lambda: "0.33.0")
    with pytest.raises(ConfigError, match=r"vLLM 0\.33\.0"):
        configure(tiny)


@pytest.mark.vllm
def test_a_probe_of_another_model_is_refused(tiny: Ridden, tmp_path: Path) -> None:
    identity = tiny.backend.identity
    other = replace(identity, weights_sha256="0" * 64)
    make_artefact("stranger", other).save(tmp_path / "stranger")
    with pytest.raises(MismatchError, match=r"'stranger' belongs to another model.*weights"):
        configure(tiny, **options(["LlamaForCausalLM"], [tmp_path / "stranger"]))
    allowed = options(["LlamaForCausalLM"], [tmp_path / "stranger"], allow_mismatch=True)
    configure(tiny, **allowed)


@pytest.mark.vllm
def test_a_probe_of_a_model_of_other_layers_is_refused(tiny: Ridden, tmp_path: Path) -> None:
    deeper = replace(tiny.backend.identity, num_layers=9)
    make_artefact("deep", deeper).save(tmp_path / "deep")
    chosen = options(["LlamaForCausalLM"], [tmp_path / "deep"], allow_mismatch=True)
    with pytest.raises(MismatchError, match="9 layers, this one has 4"):
        configure(tiny, **chosen)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("probe", "why"), [("pooling-max", "not tappable"), ("mha", "every token")]
)
def test_a_probe_that_cannot_ride_is_refused(
    tiny: Ridden, tmp_path: Path, probe: str, why: str
) -> None:
    make_artefact("wide", tiny.backend.identity, probe).save(tmp_path / "wide")
    with pytest.raises(ConfigError, match=f"'wide'.*{why}.*pillion's own engine"):
        configure(tiny, **options(["LlamaForCausalLM"], [tmp_path / "wide"]))


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("others", "what"),
    [
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            "speculative decoding",
        ),
    ],
)
def test_what_probes_do_not_ride_with_is_refused(
    tiny: Ridden, others: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        configure(tiny, **others)


@pytest.mark.vllm
def test_a_model_without_auxiliary_hidden_states_is_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, OPTConfig

    sizes = {"hidden_size": 64, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 64}
    config = OPTConfig(vocab_size=96, num_hidden_layers=2, max_position_embeddings=768, **sizes)
    folder = save_tiny_model(tmp_path / "model")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model = Ridden(folder, tmp_path / "probes")
    with pytest.raises(ConfigError, match="OPTForCausalLM offers no auxiliary hidden states"):
        configure(model, kv_cache_memory_bytes=None)


@pytest.mark.vllm
def test_a_plugin_that_was_left_out_is_named(tiny: Ridden) -> None:
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


def test_a_connector_of_somebody_else_is_refused() -> None:
    pytest.importorskip("vllm.config")
    from pillion.vllm.hook import check_engine

    parallel = SimpleNamespace(
        pipeline_parallel_size=1,
        decode_context_parallel_size=1,
        prefill_context_parallel_size=1,
        enable_dbo=False,
    )
    other = SimpleNamespace(kv_connector="NixlConnector")
    config = SimpleNamespace(
        parallel_config=parallel, speculative_config=None, kv_transfer_config=other
    )
    with pytest.raises(ConfigError, match="'NixlConnector', and probes need PillionConnector"):
        check_engine(config)
