"""Which SGLang probes ride in, and in which of its models. Imports no SGLang.

Hooks of plugins and external models are no stable interface of SGLang: other versions are refused.
"""

from __future__ import annotations

from pillion.core.extras import installed_version
from pillion.errors import ConfigError

SUPPORTED = ("0.5.23",)
"""Ascending; the tests' environment and the documents follow it."""
MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Model classes whose states were compared with those of transformers, layer by layer."""


def sglang_version() -> str:
    """Of the SGLang that is installed; empty if none is."""
    return installed_version("sglang")


def is_supported(version: str) -> bool:
    """Whether this is an SGLang that probes ride in."""
    return version in SUPPORTED


def check_version(version: str) -> None:
    """Returns if SGLang is there and of a version that probes ride in.

    Raises:
        ConfigError: if it is not.
    """
    if not version:
        raise ConfigError(f"SGLang is not installed; run `pip install sglang=={SUPPORTED[-1]}`.")
    if not is_supported(version):
        raise ConfigError(
            f"SGLang {version} is installed, and probes ride in {' and '.join(SUPPORTED)} only; "
            f"run `pip install sglang=={SUPPORTED[-1]}`."
        )


def check_model(architecture: str) -> None:
    """Returns if probes ride in SGLang's model of this class.

    Raises:
        ConfigError: if they do not.
    """
    if architecture not in MODELS:
        raise ConfigError(
            f"The model is a {architecture}, and in SGLang probes ride in {', '.join(MODELS)} "
            "only; serve this one with `pillion serve` or `pillion vllm`."
        )
