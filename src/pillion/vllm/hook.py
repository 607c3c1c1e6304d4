# pyright: reportMissingImports=false, reportUntypedBaseClass=false
"""Checks when vLLM has put its configuration together, before it starts a process or loads weights.

vLLM keeps a table of such hooks by architecture; the plain architecture's own one runs as well.
"""

from __future__ import annotations

import os
from typing import Any

from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.model_executor.models.interfaces import supports_eagle3
from vllm.model_executor.models.registry import ModelRegistry

from pillion.backends.checkpoint import read_checkpoint
from pillion.backends.rotation import check_engine_rotation
from pillion.errors import ConfigError
from pillion.riding.latest_logits import KEY
from pillion.vllm.guard import expect
from pillion.vllm.settings import PREFIX, SCHEDULER, VllmProbeSettings, digest
from pillion.vllm.siblings import watch
from pillion.vllm.start import (
    check_aux_states,
    check_http_plugin,
    check_probes,
    hears_reasoning,
    policies_of,
)
from pillion.vllm.versions import check_version, says_when_it_sleeps, vllm_version


def install(architecture: str) -> None:
    """Puts our hook in front of that of a plain architecture."""
    plain: Any = MODELS_CONFIG_MAP.get(architecture, VerifyAndUpdateConfig)

    class Hook(plain):
        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            plain.verify_and_update_config(vllm_config)
            check_config(vllm_config)

    MODELS_CONFIG_MAP[PREFIX + architecture] = Hook


def check_config(vllm_config: Any) -> None:
    """Returns if probes can ride with this configuration.

    Raises:
        ConfigError, MismatchError, ArtefactError: if they cannot, in a sentence.
    """
    check_version(vllm_version())
    settings = VllmProbeSettings.of(vllm_config.additional_config)
    if settings.http:
        check_http_plugin()
    check_engine(vllm_config)
    model = vllm_config.model_config
    base = ModelRegistry.models[model.architecture.removeprefix(PREFIX)].load_model_cls()
    check_aux_states(supports_eagle3(base), base.__name__)
    if not settings.allow_mismatch:
        check_numbers(vllm_config)
    dtype = str(model.dtype).removeprefix("torch.")
    tokenizer = None if model.tokenizer == model.model else model.tokenizer
    checkpoint = read_checkpoint(model.model, dtype, model.revision, tokenizer)
    check_engine_rotation(checkpoint.rotation, "vLLM", model.max_model_len)
    probes = settings.load()
    check_probes(probes, checkpoint.identity, settings.allow_mismatch)
    has_policies = bool(policies_of(settings.policy, settings.http, probes).policies)
    # vLLM keeps compiled graphs under a key of its settings, and the folders alone do not tell
    # which layers a graph hands out.
    vllm_config.additional_config[KEY] |= {"digest": digest(probes)}
    scheduler, reasoning = vllm_config.scheduler_config, checkpoint.codec.reasoning_ids
    if hears_reasoning(probes, reasoning, scheduler.async_scheduling):
        scheduler.async_scheduling = False
        vllm_config.additional_config[KEY] |= {"reasoning": reasoning}
    _watch_outputs(has_policies)


def check_engine(config: Any) -> None:
    """Returns if vLLM is to run in a way that probes ride with.

    Raises:
        ConfigError: naming what they do not ride with.
    """
    parallel, cache = config.parallel_config, config.cache_config
    connector, version = config.kv_transfer_config, vllm_version()
    refused = {
        f"pipeline_parallel_size={parallel.pipeline_parallel_size}, where no process has all "
        "layers": parallel.pipeline_parallel_size > 1,
        "context parallelism": parallel.decode_context_parallel_size > 1
        or parallel.prefill_context_parallel_size > 1,
        "micro-batches (enable_dbo)": parallel.enable_dbo,
        "speculative decoding, whose rejected tokens they would have read": (
            config.speculative_config is not None
        ),
        "disable_hybrid_kv_cache_manager=False, which makes several groups of KV caches": (
            config.scheduler_config.disable_hybrid_kv_cache_manager is False
        ),
        "kv_offloading_size": cache.kv_offloading_size is not None,
        "kv_sharing_fast_prefill, which skips layers of a prompt": cache.kv_sharing_fast_prefill,
        f"sleep mode in vLLM {version}, which does not say when it sleeps": (
            config.model_config.enable_sleep_mode and not says_when_it_sleeps(version)
        ),
        "runner=pooling, which generates nothing": config.model_config.runner_type != "generate",
    }
    for what, is_on in refused.items():
        if is_on:
            raise ConfigError(f"Probes do not ride with {what}; start vLLM without it.")
    if connector is not None and connector.kv_connector == "MultiConnector":
        raise ConfigError(
            "vLLM's KV connector is 'MultiConnector', and what others in it bring back of a prompt "
            "(KV offloading, prefill in another engine) comes without what probes keep of it; give "
            "PillionConnector alone."
        )
    if connector is None or connector.kv_connector != "PillionConnector":
        raise ConfigError(
            f"vLLM's KV connector is {connector and connector.kv_connector!r}, and probes need "
            "PillionConnector; take all options that `pillion vllm` writes."
        )
    if connector.kv_role != "kv_both":
        raise ConfigError(
            f"vLLM's KV connector has the role {connector.kv_role!r}, and probes need prompts and "
            "answers in one engine; give it kv_both."
        )
    if config.scheduler_config.scheduler_cls != SCHEDULER:
        raise ConfigError(
            f"vLLM's scheduler is {config.scheduler_config.scheduler_cls!r}, whose outputs carry "
            f"no verdicts; give it scheduler_cls={SCHEDULER}, as `pillion vllm` writes."
        )
    if os.environ.get("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", "0") != "0":
        raise ConfigError(
            "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION is set: two requests of one name would get each "
            "other's verdicts; take it out of the environment."
        )


def check_numbers(config: Any) -> None:
    """Returns if the model computes what its files say.

    Raises:
        ConfigError: naming what gives it other numbers.
    """
    model, cache = config.model_config, config.cache_config
    overrides: Any = model.hf_overrides
    named = sorted(set(overrides) - {"architectures"}) if isinstance(overrides, dict) else ["all"]
    stored = getattr(model.hf_config, "quantization_config", None)
    changed = {
        "load_format=dummy (random weights)": config.load_config.load_format == "dummy",
        f"quantization={model.quantization} of plain weights": model.quantization is not None
        and stored is None,
        f"hf_overrides of {', '.join(named)}": bool(named),
        f"kv_cache_dtype={cache.cache_dtype}": cache.cache_dtype
        not in {"auto", str(model.dtype).removeprefix("torch.")},
    }
    for what, is_on in changed.items():
        if is_on:
            raise ConfigError(
                f"{what} gives this model other hidden states than its files, so that probes would "
                "read other numbers; start vLLM without it, or save the model as it is to run and "
                "train probes on that."
            )


def _watch_outputs(has_policies: bool) -> None:
    """In the process that makes a configuration, which is vLLM's frontend."""
    # Not above: every process of vLLM imports this module, and early.
    from vllm.v1.engine.output_processor import OutputProcessor

    watch(OutputProcessor)
    expect(OutputProcessor, has_policies)
