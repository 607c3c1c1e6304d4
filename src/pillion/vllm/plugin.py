# pyright: reportMissingImports=false
"""The entry point that vLLM calls in every one of its processes: registers model classes.

Cheap: nothing is imported but vLLM's registry, and classes are made when they are used.
"""

from __future__ import annotations

from pillion.vllm.settings import PREFIX
from pillion.vllm.versions import is_supported, vllm_version

registered = False
"""Whether vLLM has called us in this process."""


def register() -> None:
    """Entry point of group `vllm.general_plugins`; may be called several times."""
    global registered
    registered = True
    if not is_supported(vllm_version()):
        return  # the connector says it, where probes are asked for
    from vllm.model_executor.models.registry import ModelRegistry

    from pillion.vllm.hook import install

    for name in list(ModelRegistry.get_supported_archs()):
        if not name.startswith(PREFIX):
            ModelRegistry.register_model(PREFIX + name, f"pillion.vllm.models:{PREFIX}{name}")
            install(name)
