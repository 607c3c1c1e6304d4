# pyright: reportMissingImports=false, reportUntypedBaseClass=false
"""Checks when vLLM has put its configuration together, before it starts a process or loads weights.

vLLM keeps a table of such hooks by architecture; the plain architecture's own one runs as well.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.model_executor.models.interfaces import supports_eagle3
from vllm.model_executor.models.registry import ModelRegistry

from pillion.backends.checkpoint import read_checkpoint
from pillion.errors import ConfigError
from pillion.vllm.ledger import KEY
from pillion.vllm.settings import PREFIX, ProbeSettings
from pillion.vllm.start import (
    check_aux_states,
    check_http_plugin,
    check_probes,
    check_version,
    hears_reasoning,
    vllm_version,
)


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
    settings = ProbeSettings.of(vllm_config.additional_config)
    if settings.http:
        check_http_plugin()
    check_engine(vllm_config)
    model = vllm_config.model_config
    base = ModelRegistry.models[model.architecture.removeprefix(PREFIX)].load_model_cls()
    check_aux_states(supports_eagle3(base), base.__name__)
    dtype = str(model.dtype).removeprefix("torch.")
    checkpoint = read_checkpoint(model.model, dtype, model.revision)
    probes = settings.load()
    check_probes(probes, checkpoint.identity, settings.allow_mismatch)
    scheduler, reasoning = vllm_config.scheduler_config, checkpoint.codec.reasoning_ids
    if hears_reasoning(probes, reasoning, scheduler.async_scheduling):
        scheduler.async_scheduling = False
        vllm_config.additional_config[KEY] |= {"reasoning": reasoning}


def check_engine(config: Any) -> None:
    """Returns if vLLM is to run in a way that probes ride with.

    Raises:
        ConfigError: naming what they do not ride with.
    """
    parallel = config.parallel_config
    refused = {
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "context parallelism": parallel.decode_context_parallel_size > 1
        or parallel.prefill_context_parallel_size > 1,
        "micro-batches (enable_dbo)": parallel.enable_dbo,
        "speculative decoding": config.speculative_config is not None,
    }
    for what, is_on in refused.items():
        if is_on:
            raise ConfigError(f"Probes do not ride with {what}; start vLLM without it.")
    connector = config.kv_transfer_config
    if connector is None or connector.kv_connector != "PillionConnector":
        raise ConfigError(
            f"vLLM's KV connector is {connector and connector.kv_connector!r}, and probes need "
            "PillionConnector; take all options that `pillion vllm` writes."
        )
